"""What disturbs a measuring window: foreign load, stolen time, paging, a change of power source.

Two snapshots around a window are compared; each disturbance is named in words with its size. Everything is read from
procfs and sysfs; what the system does not tell is not judged.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

FOREIGN_LIMIT = 0.05  # share of the machine's cores, as in the measuring protocol
STEAL_LIMIT = 0.01
PAGE_INS_LIMIT = 100  # major faults a window: the model is being read from disk again
DRIFT_LIMIT_C = 3.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The machine's own counters at one moment. Seconds are summed over all cores; None = not told here."""

    busy_s: float | None
    steal_s: float | None
    capacity_s: float | None  # all accounted time, idle included
    major_faults: int | None
    on_mains: bool | None
    temperature_c: float | None


def snapshot(proc: Path = Path("/proc"), sys: Path = Path("/sys")) -> Snapshot:
    """Read the counters now (about 0.1 ms)."""
    busy, steal, capacity = _cpu_times(proc)
    return Snapshot(busy, steal, capacity, _major_faults(proc), _on_mains(sys), _temperature(sys))


def disturbances(before: Snapshot, after: Snapshot, own_cpu_s: float) -> tuple[str, ...]:
    """Name what disturbed the time between two snapshots.

    Args:
        own_cpu_s: CPU-seconds that the process under test and the harness used in between.
    """
    found: list[str] = []
    if before.capacity_s is not None and after.capacity_s is not None and after.capacity_s > before.capacity_s:
        capacity = after.capacity_s - before.capacity_s
        foreign = ((after.busy_s or 0.0) - (before.busy_s or 0.0) - own_cpu_s) / capacity
        steal = ((after.steal_s or 0.0) - (before.steal_s or 0.0)) / capacity
        if foreign > FOREIGN_LIMIT:
            found.append(f"foreign CPU load {foreign:.0%} of the machine")
        if steal > STEAL_LIMIT:
            found.append(f"{steal:.1%} of the CPU time stolen by the hypervisor")
    if before.major_faults is not None and after.major_faults is not None:
        faults = after.major_faults - before.major_faults
        if faults > PAGE_INS_LIMIT:
            found.append(f"{faults} pages read back from disk")
    if before.on_mains != after.on_mains:
        found.append("power source changed")
    if before.temperature_c is not None and after.temperature_c is not None:
        drift = abs(after.temperature_c - before.temperature_c)
        if drift > DRIFT_LIMIT_C:
            found.append(f"temperature moved by {drift:.1f} C")
    return tuple(found)


def _cpu_times(proc: Path) -> tuple[float | None, float | None, float | None]:
    """(busy, stolen, all) seconds of the first line of /proc/stat; guest time is already inside user time."""
    try:
        first = (proc / "stat").read_text().split("\n", 1)[0].split()
    except OSError:
        return None, None, None
    user, nice, system, idle, iowait, irq, softirq, steal = (int(x) for x in first[1:9])
    tick = os.sysconf("SC_CLK_TCK")
    busy = user + nice + system + irq + softirq
    return busy / tick, steal / tick, (busy + steal + idle + iowait) / tick


def _major_faults(proc: Path) -> int | None:
    try:
        lines = (proc / "vmstat").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("pgmajfault ")), None)


def _on_mains(sys: Path) -> bool | None:
    states = [_read_int(p / "online") for p in (sys / "class/power_supply").glob("*") if _is_mains(p)]
    known = [s for s in states if s is not None]
    return bool(max(known)) if known else None


def _is_mains(supply: Path) -> bool:
    try:
        return (supply / "type").read_text().strip() == "Mains"
    except OSError:
        return False


def _temperature(sys: Path) -> float | None:
    """The hottest thermal zone: the one that throttles first."""
    readings = [_read_int(p) for p in (sys / "class/thermal").glob("thermal_zone*/temp")]
    known = [r for r in readings if r is not None]
    return max(known) / 1000 if known else None


def _read_int(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
