"""What disturbs a measuring window: foreign load, stolen time, paging, a change of power source.

Two snapshots around a window are compared; each disturbance is named in words with its size. What the system does not
tell is not judged.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil

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


def snapshot(sys: Path = Path("/sys")) -> Snapshot:
    """Read the counters now (about 0.2 ms)."""
    return Snapshot(*_cpu_times(), _major_faults(), _on_mains(sys), _temperature(sys))


def disturbances(before: Snapshot, after: Snapshot, own_cpu_s: float) -> tuple[str, ...]:
    """Name what disturbed the time between two snapshots.

    Args:
        own_cpu_s: CPU-seconds that the process under test and the harness used in between.
    """
    foreign = steal = 0.0
    if (capacity_s := _rise(before.capacity_s, after.capacity_s)) > 0:
        foreign = (_rise(before.busy_s, after.busy_s) - own_cpu_s) / capacity_s
        steal = _rise(before.steal_s, after.steal_s) / capacity_s
    faults = _rise(before.major_faults, after.major_faults)
    drift_c = abs(_rise(before.temperature_c, after.temperature_c))
    causes = {
        f"foreign CPU load {foreign:.0%} of the machine": foreign > FOREIGN_LIMIT,
        f"{steal:.1%} of the CPU time stolen by the hypervisor": steal > STEAL_LIMIT,
        f"{faults:.0f} pages read back from disk": faults > PAGE_INS_LIMIT,
        "power source changed": before.on_mains != after.on_mains,
        f"temperature moved by {drift_c:.1f} C": drift_c > DRIFT_LIMIT_C,
    }
    return tuple(cause for cause, present in causes.items() if present)


def _rise(before: float | None, after: float | None) -> float:
    return 0.0 if before is None or after is None else after - before


def _cpu_times() -> tuple[float | None, float | None, float | None]:
    """(busy, stolen, all) seconds; guests' time is already inside user and nice."""
    try:
        times = psutil.cpu_times()._asdict()
    except OSError:
        return None, None, None
    steal = times.get("steal", 0.0)
    capacity = sum(seconds for name, seconds in times.items() if name not in ("guest", "guest_nice"))
    return capacity - steal - times["idle"] - times.get("iowait", 0.0), steal, capacity


def _major_faults() -> int | None:
    """Of the whole machine; psutil counts those of living processes."""
    lines = _text(Path(psutil.PROCFS_PATH) / "vmstat").splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("pgmajfault ")), None)


def _on_mains(sys: Path) -> bool | None:
    """psutil knows two names of chargers, and takes a battery that is not charging for off the mains."""
    supplies = (sys / "class/power_supply").glob("*")
    states = [_text(supply / "online") for supply in supplies if _text(supply / "type") == "Mains"]
    return "1" in states if any(states) else None


def _temperature(sys: Path) -> float | None:
    """The hottest thermal zone: the one that throttles first. psutil would read, and wake, disks and cards too."""
    zones = map(_text, (sys / "class/thermal").glob("thermal_zone*/temp"))
    return max((int(text) / 1000 for text in zones if text.lstrip("-").isdigit()), default=None)


def _text(path: Path) -> str:
    """What a file says; "" where it is missing or silent."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
