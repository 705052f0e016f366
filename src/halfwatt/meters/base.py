"""What a meter is. One cumulative joule counter with a grade; it raises rather than guesses."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

from halfwatt.errors import MeterError
from halfwatt.records import Grade, MeterInfo, Reading


class EnergyMeter(Protocol):
    """A cumulative counter of joules.

    >>> before = meter.read(); work(); after = meter.read()       # doctest: +SKIP
    >>> joules = after.joules - before.joules                     # doctest: +SKIP
    """

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


def align(meter: EnergyMeter, timeout_s: float = 5.0) -> Reading:
    """The reading right after the counter's next update; at once for a counter that has no steps.

    Polls asleep, at a twentieth of the period, so that the wait itself heats nothing.

    Raises:
        MeterError: the counter did not move in time: it is stuck.
    """
    first = meter.read()
    period_s = meter.info.period_s
    if period_s == 0:
        return first
    pause_s = max(period_s / 20, 0.0002)
    deadline = time.monotonic() + max(timeout_s, 20 * period_s)
    while time.monotonic() < deadline:
        now = meter.read()
        if now.joules != first.joules:
            return now
        time.sleep(pause_s)
    raise MeterError(
        f"{meter.info.name} did not move in {max(timeout_s, 20 * period_s):.0f} s",
        found=f"{first.joules:.3f} J",
        hint="the counter is stuck: run 'halfwatt doctor'",
    )
