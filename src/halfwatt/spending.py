"""What a training uses, read in laps: tokens and bytes as counted by it, time and joules as measured here."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from halfwatt.meters.base import EnergyMeter
from halfwatt.records import Spent


@dataclass(slots=True)
class Laps:
    """Looks at this process's CPU time, the clock and the meter; a lap is what lies between two looks."""

    meter: EnergyMeter | None = None
    device: str | None = None  # where the work is done
    _before: tuple[float, float, float | None] = field(init=False)

    def __post_init__(self) -> None:
        self._before = self._look()

    def lap(self, tokens: int, bytes_b: int) -> Spent:
        """Since the last lap, or since this object was made."""
        now, before = self._look(), self._before
        self._before = now
        return Spent(
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


def together(a: Spent, b: Spent) -> Spent:
    """Two parts of one training. Joules are those that were measured: a part without any adds none."""
    known = [s.joules for s in (a, b) if s.joules is not None]
    return Spent(
        tokens=a.tokens + b.tokens,
        wall_s=a.wall_s + b.wall_s,
        cpu_s=a.cpu_s + b.cpu_s,
        bytes_b=a.bytes_b + b.bytes_b,
        joules=sum(known) if known else None,
        meter=a.meter or b.meter,
        device=a.device or b.device,
    )
