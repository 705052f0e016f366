"""Intel and AMD processors through the kernel's powercap tree (RAPL).

    intel-rapl:0          name package-0          counted
    intel-rapl:0:0        name core               inside the package: not counted again
    intel-rapl:0:2        name dram               outside the package on Intel: counted
    intel-rapl:1          name psys               the whole platform, package included: a meter apart, never added
    intel-rapl-mmio:0     name package-0          the same package by another way: left out

Counters wrap at ``max_energy_range_uj`` (262 kJ: 22 minutes at 200 W). A read that fails raises; it is never 0 J.

A guest whose host writes its share of the counters into such a tree (scaphandre does; zones without a name) gets a
meter of grade D: the host divides its joules by CPU time, so they are modelled.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from halfwatt.core.errors import MeterError
from halfwatt.meters.base import Finding, MeterInfo
from halfwatt.meters.counter import Counter, CounterMeter
from halfwatt.meters.ticks import REAL, Clock, Tick, tick_of

ROOT = Path("/sys/class/powercap")
TOTAL, PSYS = "rapl:package+dram", "rapl:psys"
PLATFORM = "the platform as its maker wired it, processor packages included"
NOT_COVERED = "GPU, disks, fans, power supply losses"
_UNKNOWN_MAX_W = 600.0  # above any one socket; used where the zone has no power limit (AMD)
_LEAST_MAX_W = 100.0  # limits can be set far below what a package draws for a moment
_SHARE_ERROR = 0.3  # of a ratio, grade D

ReadText = Callable[[Path], str]


@dataclass(frozen=True, slots=True)
class Zone:
    """One counter of the tree."""

    path: Path
    name: str
    parent: str  # name of the zone around it, "" at the top
    range_j: float | None  # where it wraps; None = unknown, so a counter that falls is an error
    max_w: float
    share: bool  # it has no name: what a VM's host attributed to this guest


def open_total(root: Path = ROOT, read_text: ReadText = Path.read_text, clock: Clock = REAL) -> CounterMeter:
    """The processors: the sum of all packages, and of their DRAM where the processor has such a counter.

    Raises:
        MeterError: there is no tree, it may not be read, or its counters stand still; says what to type.
    """
    all_zones = zones(root, read_text)
    packages = [z for z in all_zones if re.fullmatch(r"package-\d+(-die-\d+)?", z.name)]
    if not packages:
        raise MeterError(f"no RAPL package under {root}", hint=_enabling(root))
    tick = _moving(packages, read_text, clock)
    memory = [z for z in all_zones if z.name == "dram" and (not z.parent or z.parent.startswith("package"))]
    alive = [z for z in memory if _tick(z, read_text, clock) is not None]
    stuck = "DRAM (its counter stands still)" if memory else "DRAM (this processor has no counter for it)"
    share = packages[0].share
    parts = f"{len(packages)} processor package{'s' if len(packages) > 1 else ''}{' and DRAM' if alive else ''}"
    info = MeterInfo(
        name=TOTAL if alive else "rapl:package",
        domain=f"cpu: {', '.join(z.name for z in packages)}",
        kind="modelled" if share else "measured",
        grade="D" if share else "B",
        covers=f"this guest's share, by CPU time, of the host's {parts}" if share else parts,
        not_covered=NOT_COVERED if alive else f"{stuck}, {NOT_COVERED}",
        period_s=tick.period_s,
        step_j=tick.step,
        ratio_error=_SHARE_ERROR if share else 0.0,
    )
    return CounterMeter(info, _counters([*packages, *alive], read_text), clock)


def open_psys(root: Path = ROOT, read_text: ReadText = Path.read_text, clock: Clock = REAL) -> CounterMeter | None:
    """The platform counter, which contains the packages; None where there is none.

    Raises:
        MeterError: there is one, but it may not be read or stands still.
    """
    platform = [zone for zone in zones(root, read_text) if zone.name.startswith("psys")]
    if not platform:
        return None
    tick, beyond = _moving(platform, read_text, clock), "differs between makers; wrong on some laptops"
    info = MeterInfo(PSYS, "platform", "measured", "B", PLATFORM, beyond, tick.period_s, tick.step)
    return CounterMeter(info, _counters(platform, read_text), clock)


def _counters(zones: Sequence[Zone], read_text: ReadText) -> list[tuple[Counter, Callable[[], float]]]:
    return [(Counter(z.name, z.max_w, z.range_j), partial(_raw_j, z, read_text)) for z in zones]


def findings(root: Path = ROOT, read_text: ReadText = Path.read_text) -> list[Finding]:
    """What `halfwatt doctor` says about RAPL here: the total, and psys where there is one."""
    total, platform = (TOTAL, "cpu", "processor packages and their DRAM"), (PSYS, "platform", PLATFORM)
    lines = []
    for (name, domain, covers), opener in ((total, open_total), (platform, open_psys)):
        try:
            if (meter := opener(root, read_text)) is not None:
                meter.close()
                lines.append(Finding.of(meter.info))
        except MeterError as error:
            lines.append(Finding(name, domain, "B", covers, False, str(error)))
    return lines


def zones(root: Path, read_text: ReadText = Path.read_text) -> list[Zone]:
    """The counters under ``root``, each once: links to the same folder and mmio twins are left out."""
    folders: dict[Path, Path] = {}
    for pattern in ("*:*", "*/*:*", "*:*/*:*", "*/*:*/*:*"):  # flat with links, or nested as in /sys/devices
        for counter in sorted(root.glob(f"{pattern}/energy_uj")):
            folders.setdefault(counter.parent.resolve(), counter.parent)
    names = {folder.name: _name(folder, read_text) for folder in folders.values()}
    counters = [_zone(folder, names, read_text) for folder in folders.values()]
    counters.sort(key=lambda zone: "mmio" in zone.path.name)  # another way to what intel-rapl has too: last
    others = {(zone.parent, zone.name) for zone in counters if "mmio" not in zone.path.name}
    return [z for z in counters if "mmio" not in z.path.name or (z.parent, z.name) not in others]


def _zone(folder: Path, names: dict[str, str | None], read_text: ReadText) -> Zone:
    name = names[folder.name]
    around, number = folder.name.rsplit(":", 1)
    range_j = _micro(folder / "max_energy_range_uj", read_text)
    limits = [w for path in folder.glob("constraint_*_uw") if (w := _micro(path, read_text))]
    return Zone(
        path=folder,
        name=name or (f"package-{number}" if ":" not in around else "unnamed"),
        parent=names.get(around) or "",
        range_j=range_j or None,
        max_w=max(_LEAST_MAX_W, *limits) if limits else _UNKNOWN_MAX_W,
        share=name is None,
    )


def _name(folder: Path, read_text: ReadText) -> str | None:
    try:
        return read_text(folder / "name").strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise MeterError(f"{folder / 'name'} cannot be read", got=error.strerror, hint=_permission(folder)) from error


def _micro(path: Path, read_text: ReadText) -> float | None:
    """A number of millionths; None where the file is missing or not for us."""
    try:
        return int(read_text(path)) / 1e6
    except (OSError, ValueError):
        return None


def _raw_j(zone: Zone, read_text: ReadText) -> float:
    path = zone.path / "energy_uj"
    try:
        return int(read_text(path)) / 1e6
    except PermissionError:
        raise MeterError(f"{path} may not be read", hint=_permission(zone.path)) from None
    except FileNotFoundError:
        raise MeterError(f"{path} is gone", hint="was a driver unloaded? type: sudo modprobe intel_rapl_msr") from None
    except (OSError, ValueError) as error:
        raise MeterError(f"{path} cannot be read", got=str(error), hint="run 'halfwatt doctor'") from error


def _tick(zone: Zone, read_text: ReadText, clock: Clock) -> Tick | None:
    """How the counter moves; the hardware updates about every millisecond, a VM's host every few seconds."""
    if zone.share:
        return tick_of(lambda: _raw_j(zone, read_text), poll_s=0.05, updates=3, limit_s=20.0, clock=clock)
    return tick_of(lambda: _raw_j(zone, read_text), poll_s=0.0001, clock=clock)


def _moving(zones: Sequence[Zone], read_text: ReadText, clock: Clock) -> Tick:
    """The longest period and the smallest step of some counters, none of which stands still."""
    ticks = []
    for zone in zones:
        if (tick := _tick(zone, read_text, clock)) is None:
            raise MeterError(
                f"the counter of {zone.name} stands still",
                got=f"{_raw_j(zone, read_text):.3f} J in {zone.path / 'energy_uj'}",
                hint="virtual machines show such counters: measure on the host",
            )
        ticks.append(tick)
    return Tick(max(tick.period_s for tick in ticks), min(tick.step for tick in ticks))


def _permission(folder: Path) -> str:
    tree = next(path for path in (folder.resolve(), *folder.resolve().parents) if ":" not in path.name)
    return f"type: sudo chmod -R a+r {tree}   (until the next boot; energy is for root alone since CVE-2020-8694)"


def _enabling(root: Path) -> str:
    if root != ROOT:
        return "give the folder that holds intel-rapl:0, or intel-rapl"
    return (
        "on the machine itself type: sudo modprobe intel_rapl_msr; a container needs: docker run "
        "-v /sys/devices/virtual/powercap:/powercap:ro and --rapl-root /powercap; most virtual machines have none"
    )
