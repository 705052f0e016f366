"""Raw hardware counters turned into joules that never fall: unwrapped in the same read, refused when not plausible.

    rise  = raw - last                          joules since the read before
    rise += range          if rise < 0          at most one wrap between two reads, so read every range / (4 x W)
    refused: a wrap of more than half the range, and a rise faster than 1.5 x the most that the source can draw

A refusal is final. Joules that were lost cannot be made up, so the meter has to be opened again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from halfwatt.core.errors import MeterError
from halfwatt.meters.base import MeterInfo, Reading
from halfwatt.meters.ticks import REAL, Clock, Periodic

HEADROOM = 1.5  # a source above 1.5 x its power limit is not believed
SLACK_S = 0.5  # a counter may publish at once what it gathered since its last update


@dataclass(slots=True)
class Counter:
    """The rise of one counter since its first look. Pure: time comes in with each look."""

    name: str  # for messages
    max_w: float  # the most that the source can draw
    range_j: float | None = None  # where the counter wraps; None = it does not
    total_j: float = 0.0
    _last: tuple[float, float] | None = None
    _broken: MeterError | None = None

    @property
    def read_within_s(self) -> float | None:
        """Read at least this often: a quarter of the time that a wrap takes at full power. None = no need."""
        return None if self.range_j is None else self.range_j / (4 * self.max_w)

    def advance(self, t_s: float, raw_j: float) -> float:
        """Joules since the first look; this one is at ``t_s`` monotonic seconds, where the counter shows ``raw_j``.

        Raises:
            MeterError: it fell without a plausible wrap, rose faster than the source can draw, or was left unread for
                so long that it may have wrapped twice. Every later look raises it again.
        """
        if self._broken is not None:
            raise self._broken
        if self._last is not None:
            try:
                self.total_j += self._rise(t_s - self._last[0], self._last[1], raw_j)
            except MeterError as error:
                self._broken = error
                raise
        self._last = (t_s, raw_j)
        return self.total_j

    def _rise(self, seconds: float, last_j: float, raw_j: float) -> float:
        rise, limit_j = raw_j - last_j, HEADROOM * self.max_w * (seconds + SLACK_S)
        if self.range_j is not None and HEADROOM * self.max_w * seconds > self.range_j:
            raise MeterError(
                f"{self.name} was not read for {seconds:.0f} s, in which it may have wrapped more than once",
                hint=f"read it every {self.read_within_s:.0f} s; measure again",
            )
        if rise < 0:
            range_j = self.range_j or 0.0
            rise += range_j
            if not 0 <= rise <= min(limit_j, range_j / 2):
                hint = "the counter was reset, by a driver reload or by suspend: measure again"
                raise MeterError(f"{self.name} fell from {last_j:.1f} to {raw_j:.1f} J, which is no wrap", hint=hint)
        if rise > limit_j:
            raise MeterError(
                f"{self.name} rose by {rise:.1f} J in {seconds:.3f} s, more than its source can draw",
                got=f"limit {self.max_w:.0f} W",
                hint="the counter jumped: measure again",
            )
        return rise


class CounterMeter:
    """The sum of some counters, each unwrapped within the same read, as joules since the meter was opened.

    While it is open a thread reads counters that wrap every quarter of a wrap, so that none is missed.
    """

    def __init__(
        self, info: MeterInfo, counters: Sequence[tuple[Counter, Callable[[], float]]], clock: Clock = REAL
    ) -> None:
        """counters: each with what it shows, in joules."""
        self.info = info
        self._counters, self._clock, self._lock = counters, clock, threading.Lock()
        self.read()
        within_s = [counter.read_within_s for counter, _ in counters if counter.read_within_s is not None]
        self._keeper = Periodic(min(within_s), self.read) if within_s else None

    def read(self) -> Reading:
        """Joules of all counters since the meter was opened.

        Raises:
            MeterError: one cannot be read (any more), was reset, or jumped.
        """
        with self._lock:
            t_s = self._clock.now()
            raw_j = [look() for _, look in self._counters]
            pairs = zip(self._counters, raw_j, strict=True)
            return Reading(t_s, sum(counter.advance(t_s, joules) for (counter, _), joules in pairs))

    def close(self) -> None:
        """End the thread that keeps an eye on wraps."""
        if self._keeper is not None:
            self._keeper.stop()
