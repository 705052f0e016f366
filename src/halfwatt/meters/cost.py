"""What work uses. Laps of a training: tokens and bytes as counted by it, time and joules as measured here; and the
tally of a whole run, all its sittings and child processes, its trainings aside, which count themselves."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path

from halfwatt.core.files import write_atomic
from halfwatt.core.json_records import from_json, to_json
from halfwatt.meters.base import EnergyMeter


@dataclass(frozen=True, slots=True)
class Cost:
    """What training has used so far, over all its sittings. Energy is None where no meter measures it."""

    tokens: int = 0  # padding included
    wall_s: float = 0.0
    cpu_s: float = 0.0
    bytes_b: int = 0  # of weights and optimizer state, computed from their sizes
    joules: float | None = None
    meter: str | None = None  # where the joules come from; this process's device only
    device: str | None = None  # where it was trained, "cpu" or "cuda"; None = not told


@dataclass(slots=True)
class CostMeter:
    """Looks at this process's CPU time, the clock and the meter; a lap is what lies between two looks."""

    meter: EnergyMeter | None = None
    device: str | None = None  # where the work is done
    _before: tuple[float, float, float | None] = field(init=False)

    def __post_init__(self) -> None:
        self._before = self._look()

    def lap(self, tokens: int, bytes_b: int) -> Cost:
        """Since the last lap, or since this object was made."""
        now, before = self._look(), self._before
        self._before = now
        return Cost(
            tokens=tokens,
            wall_s=now[0] - before[0],
            cpu_s=now[1] - before[1],
            bytes_b=bytes_b,
            joules=None if now[2] is None or before[2] is None else now[2] - before[2],
            meter=None if self.meter is None else self.meter.info.name,
            device=self.device,
        )

    def _look(self) -> tuple[float, float, float | None]:
        joules = None if self.meter is None else self.meter.read().joules
        return time.monotonic(), time.process_time(), joules


def together(a: Cost, b: Cost) -> Cost:
    """Two parts of one training. Joules are those that were measured: a part without any adds none."""
    known = [s.joules for s in (a, b) if s.joules is not None]
    return Cost(
        tokens=a.tokens + b.tokens,
        wall_s=a.wall_s + b.wall_s,
        cpu_s=a.cpu_s + b.cpu_s,
        bytes_b=a.bytes_b + b.bytes_b,
        joules=sum(known) if known else None,
        meter=a.meter or b.meter,
        device=a.device or b.device,
    )


class RunCost:
    """What a run has taken, trainings aside: a file for every sitting, rewritten whenever something is finished.

    A sitting that is killed counts up to what it finished last. CPU time is this process's and that of its children
    that have ended. With a meter of the whole device the joules of everything on it count.
    """

    def __init__(self, folder: Path, meter: EnergyMeter | None = None) -> None:
        self._folder, self._meter = folder, meter
        self._begun, self._aside = self._look(), (0.0, 0.0, 0.0)
        self._file = folder / f"{time.time_ns()}.json"

    def note(self) -> None:
        """Write down what this sitting has taken so far."""
        wall_s, cpu_s, joules = (n - b - a for n, b, a in zip(self._look(), self._begun, self._aside, strict=True))
        meter = None if self._meter is None else self._meter.info.name
        self._folder.mkdir(parents=True, exist_ok=True)
        spent = Cost(wall_s=wall_s, cpu_s=cpu_s, joules=joules if meter else None, meter=meter)
        write_atomic(self._file, to_json(spent).encode())

    def total(self) -> Cost:
        """Of all sittings, as far as they were written down."""
        sittings = (from_json(file.read_bytes(), Cost) for file in sorted(self._folder.glob("*.json")))
        return reduce(together, sittings, Cost())

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What the block takes is not this tally's."""
        before = self._look()
        try:
            yield
        finally:
            taken = (n - b for n, b in zip(self._look(), before, strict=True))
            self._aside = tuple(a + t for a, t in zip(self._aside, taken, strict=True))  # type: ignore[assignment]

    def _look(self) -> tuple[float, float, float]:
        """Seconds on the clock, CPU-seconds with children, joules (0 without a meter)."""
        used = os.times()
        cpu_s = used.user + used.system + used.children_user + used.children_system
        return time.monotonic(), cpu_s, 0.0 if self._meter is None else self._meter.read().joules
