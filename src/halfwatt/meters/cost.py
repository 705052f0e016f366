"""What work uses: laps of a training, and a whole run with all its sittings and child processes, trainings aside.

A training is aside as far as its own cost says, once: what building its candidate took beyond it, loading, rounding,
proving, counts for the run, and all of it where the training came to nothing. A sitting that goes on with what another
began, or with a teacher's answers that were kept, may leave out too much, but never more than its building took.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
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
    device: str | None = None  # where it was trained, "cpu" or "cuda"; None = unknown

    def __add__(self, other: Cost) -> Cost:
        """Two parts of one work. Joules are those that were measured: a part without any adds none."""
        measured = [cost.joules for cost in (self, other) if cost.joules is not None]
        return Cost(
            self.tokens + other.tokens,
            self.wall_s + other.wall_s,
            self.cpu_s + other.cpu_s,
            self.bytes_b + other.bytes_b,
            sum(measured) if measured else None,
            self.meter or other.meter,
            self.device or other.device,
        )

    def __sub__(self, earlier: Cost) -> Cost:
        """What one work has used since it had used ``earlier``."""
        joules = None if earlier.joules is None else -earlier.joules
        return self + Cost(-earlier.tokens, -earlier.wall_s, -earlier.cpu_s, -earlier.bytes_b, joules)


def _now(cpu_s: float, meter: EnergyMeter | None) -> Cost:
    joules, name = (None, None) if meter is None else (meter.read().joules, meter.info.name)
    return Cost(wall_s=time.monotonic(), cpu_s=cpu_s, joules=joules, meter=name)


class CostMeter:
    """Looks at this process's CPU time, the clock and the meter; a lap is what lies between two looks."""

    def __init__(self, meter: EnergyMeter | None = None, device: str | None = None) -> None:
        """device: where the work is done."""
        self._meter, self._device = meter, device
        self._before = _now(time.process_time(), meter)

    def lap(self, tokens: int, bytes_b: int) -> Cost:
        """Since the last lap, or since this object was created."""
        before, self._before = self._before, _now(time.process_time(), self._meter)
        return replace(self._before - before, tokens=tokens, bytes_b=bytes_b, device=self._device)


class RunCost:
    """What a run has taken, trainings aside: a file for every sitting, rewritten whenever something is finished.

    A sitting that is killed counts up to what it finished last. CPU time is this process's and that of its children
    that have ended. With a meter of the whole device the joules of everything on it count.
    """

    def __init__(self, folder: Path, meter: EnergyMeter | None = None) -> None:
        self._folder, self._meter = folder, meter
        self._start = self._before = self._look()
        self._lock, self._aside = threading.Lock(), 0  # blocks that are open
        self._trained, self._known = list[Cost](), set[Cost]()  # in them, and in those before
        self._file = folder / f"{time.time_ns()}.json"

    def note(self) -> None:
        """Write down what this sitting has taken so far."""
        self._folder.mkdir(parents=True, exist_ok=True)
        write_atomic(self._file, to_json(self._look() - self._start).encode())

    def total(self) -> Cost:
        """Of all sittings, as far as they were written down."""
        return sum((from_json(file.read_bytes(), Cost) for file in sorted(self._folder.glob("*.json"))), Cost())

    @contextmanager
    def training(self) -> Iterator[list[Cost]]:
        """A block in which something learns: the costs that it adds to the list do not count, at most what the block
        took: an earlier sitting may have begun it. Of blocks side by side or in each other, all of them together."""
        with self._lock:
            if not self._aside:
                self._before, self._trained = self._look(), []
            self._aside += 1
        try:
            yield self._trained
        finally:
            with self._lock:
                self._aside -= 1
                if not self._aside:
                    new = set(self._trained) - self._known  # a first lesson may be the beginning of several
                    self._known |= new
                    self._start += _smaller(self._look() - self._before, sum(new, Cost()))

    def _look(self) -> Cost:
        return _now(sum(os.times()[:4]), self._meter)  # user, system, and both of the children that have ended


def _smaller(block: Cost, part: Cost) -> Cost:
    """Figure by figure; what was not measured of the part is not left out."""
    joules = None if block.joules is None or part.joules is None else min(block.joules, part.joules)
    return Cost(wall_s=min(block.wall_s, part.wall_s), cpu_s=min(block.cpu_s, part.cpu_s), joules=joules)
