"""Which meters this machine has, and which of them a run should use.

One meter makes the total; others are read beside it and never added, because what they cover overlaps.

    work on the processor    RAPL packages + DRAM; else the whole system (ACPI power meter, battery, Jetson's input);
                             else the model of a processor, which is computed and not read
    work on an NVIDIA GPU    the board that CUDA uses, and no other board; else the whole system; else nothing
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from halfwatt.core.errors import MeterError
from halfwatt.core.machine import cores
from halfwatt.meters import hwmon, modelled, nvml, rapl
from halfwatt.meters.base import EnergyMeter, Finding, MeterInfo, Usage


@dataclass(frozen=True, slots=True)
class Instruments:
    """The meters of a run. ``primary`` gives the joules, or without one ``model``; ``others`` are read beside it."""

    primary: EnergyMeter | None
    others: tuple[EnergyMeter, ...] = ()
    model: MeterInfo | None = None

    @property
    def info(self) -> MeterInfo | None:
        """Where the joules come from; None = there are none (grade F)."""
        return self.model if self.primary is None else self.primary.info

    @property
    def infos(self) -> tuple[MeterInfo, ...]:
        """All of them, that of the joules first."""
        return tuple(info for info in (self.info, *(meter.info for meter in self.others)) if info is not None)

    def modelled_joules(self, use: Usage) -> float | None:
        """By the model of ``use``; None = there is a counter, or no model of this device."""
        cores = self.model and self.model.cores
        return modelled.modelled_joules(use, cores) if cores else None

    def close(self) -> None:
        """Close every meter; some keep a thread."""
        for meter in (self.primary, *self.others):
            if meter is not None:
                meter.close()


def instruments(device: str, *, rapl_root: str | Path | None = None, class_root: Path = hwmon.ROOT) -> Instruments:
    """Open the meters for work on ``device`` ("cpu", "cuda", "cuda:1"); the others of the machine stay closed.

    Args:
        rapl_root: a powercap tree that the user named; it must be usable. One that merely exists here need not be.
        class_root: in place of /sys/class.

    Raises:
        MeterError: ``rapl_root`` was given and cannot be used, or it is not certain which board CUDA uses.
    """
    # Opened first: when the user's own tree or the choice of board is at fault, nothing else is left open.
    board = _board(device)
    tree = class_root / "powercap" if rapl_root is None else Path(rapl_root)
    total = rapl.open_total(tree) if rapl_root is not None else _opened(partial(rapl.open_total, tree))
    psys = _opened(partial(rapl.open_psys, tree))
    primary = (board if device.startswith("cuda") else total) or _whole_system(class_root)
    others = tuple(meter for meter in (board, total, psys) if meter is not None and meter is not primary)
    model = replace(modelled.INFO, cores=cores()) if primary is None and device == "cpu" else None
    return Instruments(primary, others, model)


def findings(*, rapl_root: str | Path | None = None, class_root: Path = hwmon.ROOT) -> list[Finding]:
    """One line a meter that exists, or that could and why it does not; for `halfwatt doctor`."""
    tree = class_root / "powercap" if rapl_root is None else Path(rapl_root)
    return [*rapl.findings(tree), *nvml.findings(), *hwmon.findings(class_root), Finding.of(modelled.INFO)]


def _board(device: str) -> EnergyMeter | None:
    if not device.startswith("cuda") or not nvml.count():
        return None
    ordinal, pci_order = int(device.partition(":")[2] or 0), os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    return _opened(partial(nvml.NvmlMeter, nvml.index_of(ordinal, os.environ.get("CUDA_VISIBLE_DEVICES"), pci_order)))


def _whole_system(class_root: Path) -> EnergyMeter | None:
    whole = (sensor for sensor in hwmon.sensors(class_root) if sensor.info.domain == hwmon.WHOLE)
    return next((meter for sensor in whole if (meter := _opened(partial(hwmon.open_sensor, sensor)))), None)


def _opened(opener: Callable[[], EnergyMeter | None]) -> EnergyMeter | None:
    """The meter, or None where it cannot be opened; `findings` says why."""
    with suppress(MeterError):
        return opener()
    return None
