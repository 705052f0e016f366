"""What a meter is. One cumulative joule counter with a grade; it raises rather than guesses."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal, Protocol

from halfwatt.core.errors import MeterError

# Where a number came from: A wall meter or battery, B hardware counter, C integrated power samples,
# D model calibrated on this device, E generic model (ratios only), F no energy number at all.
Grade = Literal["A", "B", "C", "D", "E", "F"]
Kind = Literal["measured", "modelled", "replayed"]


@dataclass(frozen=True, slots=True)
class MeterInfo:
    """What a meter is and what its joules stand for."""

    name: str  # unique among the meters of this machine: "rapl:package-0", "nvml:0", "modelled"
    domain: str  # "cpu package 0", "gpu 0 board", "whole system"
    kind: Kind
    grade: Grade
    covers: str  # in words, for people
    not_covered: str
    period_s: float  # time between two updates of the counter; 0 = continuous
    step_j: float  # smallest change of the counter; 0 = continuous
    ratio_error: float = 0.0  # systematic 95 % error of a ratio of two readings: 0.5 = +-50 %; 0 = it cancels
    cores: int | None = None  # logical processors of the model, see `meters.modelled`; None = a counter, which is read


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at a cumulative counter: monotonic seconds and joules that never fall."""

    t_s: float
    joules: float


@dataclass(frozen=True, slots=True)
class Usage:
    """Cumulative use of the machine by the process under test."""

    cpu_s: float  # user + system, all threads
    wall_s: float  # time spent inside windows' work
    bytes_b: int  # weight and KV bytes that the replies had to read, computed from the format

    def __sub__(self, earlier: Usage) -> Usage:
        return Usage(self.cpu_s - earlier.cpu_s, self.wall_s - earlier.wall_s, self.bytes_b - earlier.bytes_b)


class EnergyMeter(Protocol):
    """A cumulative counter of joules: work took what lies between a reading before it and one after it."""

    @property
    def info(self) -> MeterInfo: ...

    def read(self) -> Reading:
        """Monotonic seconds and cumulative joules since the meter was opened; a wrap is handled within this read.

        Raises:
            MeterError: the counter could not be read, ran backwards, or was reset. Never a guess, never 0 instead.
        """
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of `halfwatt doctor`: a meter that exists here, or why it does not and what would enable it."""

    name: str
    domain: str
    grade: Grade
    covers: str
    available: bool
    reason: str | None  # None when available; else cause and the command that would enable it
    advice: str | None = None  # what its device might be set to, by hand; halfwatt sets nothing

    @classmethod
    def of(cls, info: MeterInfo, reason: str | None = None, advice: str | None = None) -> Finding:
        """Of a meter that was opened; ``reason`` says why it must not be used all the same."""
        return cls(info.name, info.domain, info.grade, info.covers, reason is None, reason, advice)


def align(meter: EnergyMeter, timeout_s: float = 5.0) -> Reading:
    """The reading right after the counter's next update; at once for a counter that has no steps.

    Polls asleep, at a twentieth of the period, so that the wait itself heats nothing.

    Raises:
        MeterError: the counter did not move in time: it is stuck.
    """
    first, period_s = meter.read(), meter.info.period_s
    if period_s == 0:
        return first
    timeout_s = max(timeout_s, 20 * period_s)
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        now = meter.read()
        if now.joules != first.joules:
            return now
        time.sleep(max(period_s / 20, 0.0002))
    hint = "the counter is stuck: run 'halfwatt doctor'"
    raise MeterError(f"{meter.info.name} did not move in {timeout_s:.0f} s", got=f"{first.joules:.3f} J", hint=hint)
