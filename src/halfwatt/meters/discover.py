"""Which meters this machine has, and which of them a run should use.

One meter makes the total; others are read beside it and never added, because what they cover overlaps.

    work on the processor    RAPL packages + DRAM; else the whole system (ACPI power meter, battery, Jetson's input)
    work on an NVIDIA GPU    the board that CUDA uses, and no other board; else the whole system
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from halfwatt.core.errors import MeterError
from halfwatt.meters import hwmon, modelled, nvml, rapl
from halfwatt.meters.base import EnergyMeter, Finding

CLASS = hwmon.ROOT


@dataclass(frozen=True, slots=True)
class Chosen:
    """``primary`` gives the joules; ``others`` are read beside it and never added to it."""

    primary: EnergyMeter | None
    others: tuple[EnergyMeter, ...] = ()


def choose(
    device: str,
    *,
    rapl_root: str | Path | None = None,
    class_root: Path = CLASS,
    environ: Mapping[str, str] | None = None,
) -> Chosen:
    """Open the meters for work on ``device`` ("cpu", "cuda", "cuda:1"); the others of the machine stay closed.

    Args:
        rapl_root: a powercap tree that the user named; it must be usable. One that merely exists here need not be.
        class_root: in place of /sys/class.
        environ: in place of the process's own; says which boards CUDA shows to the worker.

    Raises:
        MeterError: ``rapl_root`` was given and cannot be used, or it is not certain which board CUDA uses.
    """
    # Opened first: when the user's own tree or the choice of board is at fault, nothing else is left open.
    board = _board(device, os.environ if environ is None else environ)
    tree = _tree(rapl_root, class_root)
    total = rapl.open_total(tree) if rapl_root is not None else _opened(lambda: rapl.open_total(tree))
    psys = _opened(lambda: rapl.open_psys(tree))
    wanted = board if device.startswith("cuda") else total
    primary = wanted or _whole_system(class_root)
    beside = (board, total, psys)
    return Chosen(primary, tuple(meter for meter in beside if meter is not None and meter is not primary))


def available(*, rapl_root: str | Path | None = None, class_root: Path = CLASS) -> list[EnergyMeter]:
    """Every real meter that can be opened here, opened. Close them after use."""
    tree = _tree(rapl_root, class_root)
    openers: list[Callable[[], EnergyMeter | None]] = [
        lambda: rapl.open_total(tree),
        lambda: rapl.open_psys(tree),
        *(lambda sensor=sensor: hwmon.open_sensor(sensor) for sensor in hwmon.sensors(class_root)),
    ]
    found = [meter for opener in openers if (meter := _opened(opener)) is not None]
    return [*found, *nvml.open_all()]


def findings(*, rapl_root: str | Path | None = None, class_root: Path = CLASS) -> list[Finding]:
    """One line a meter that exists, or that could and why it does not; for `halfwatt doctor`."""
    info = modelled.INFO
    return [
        *rapl.findings(_tree(rapl_root, class_root)),
        *nvml.findings(),
        *hwmon.findings(class_root),
        Finding(info.name, info.domain, info.grade, info.covers, True, None),
    ]


def _tree(rapl_root: str | Path | None, class_root: Path) -> Path:
    return class_root / "powercap" if rapl_root is None else Path(rapl_root)


def _board(device: str, environ: Mapping[str, str]) -> EnergyMeter | None:
    if not device.startswith("cuda") or not nvml.count():
        return None
    ordinal = int(device.partition(":")[2] or 0)
    in_pci_order = environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    index = nvml.index_of(ordinal, environ.get("CUDA_VISIBLE_DEVICES"), in_pci_order)
    return _opened(lambda: nvml.NvmlMeter(index))


def _whole_system(class_root: Path) -> EnergyMeter | None:
    whole = [sensor for sensor in hwmon.sensors(class_root) if sensor.domain == hwmon.WHOLE]
    return next((meter for s in whole if (meter := _opened(lambda s=s: hwmon.open_sensor(s)))), None)  # type: ignore[misc]


def _opened(opener: Callable[[], EnergyMeter | None]) -> EnergyMeter | None:
    """The meter, or None where it cannot be opened; `findings` says why."""
    with suppress(MeterError):
        return opener()
    return None
