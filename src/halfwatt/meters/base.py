"""What a meter is. One cumulative joule counter with a grade; it raises rather than guesses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

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
