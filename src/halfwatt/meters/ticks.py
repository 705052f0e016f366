"""Time as meters see it: the updates ("ticks") of a counter, and calls that repeat while a meter is open."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from halfwatt.core.errors import MeterError
from halfwatt.meters.base import MeterInfo

MIN_UPDATES = 20  # a window with fewer resolves nothing


@dataclass(frozen=True, slots=True)
class Clock:
    """Monotonic seconds and a way to wait; tests put their own in its place."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


REAL = Clock()


@dataclass(frozen=True, slots=True)
class Tick:
    """How a counter moves: the median time between updates and the smallest step seen."""

    period_s: float
    step: float


def tick_of(
    read: Callable[[], float], *, poll_s: float, updates: int = 8, limit_s: float = 1.0, clock: Clock = REAL
) -> Tick | None:
    """Watch a counter until it has moved ``updates`` times, or for ``limit_s`` seconds; sleeps between looks.

    None: it moved fewer than twice, so no full period was seen.
    """
    begun = clock.now()
    moves = [(begun, read())]  # the first is a look, not a move: its period is cut
    while len(moves) <= updates and clock.now() - begun < limit_s:
        clock.sleep(poll_s)
        value = read()
        if value != moves[-1][1]:
            moves.append((clock.now(), value))
    if len(moves) < 3:
        return None
    pairs = list(pairwise(moves[1:]))
    return Tick(median(b[0] - a[0] for a, b in pairs), min(abs(b[1] - a[1]) for a, b in pairs))


class Periodic:
    """Calls ``look`` every ``period_s`` seconds in a daemon thread, until stopped or until it raises `MeterError`.

    The error is not kept: the meter's next read meets the same fault itself.
    """

    def __init__(self, period_s: float, look: Callable[[], object]) -> None:
        self._period_s, self._look, self._stopped = period_s, look, threading.Event()
        self._thread = threading.Thread(target=self._run, name="halfwatt meter", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread and wait for it."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        with suppress(MeterError):
            while not self._stopped.wait(self._period_s):
                self._look()


def resolved(info: MeterInfo, joules: float, seconds: float) -> float:
    """``joules`` again, when a window of ``seconds`` resolves it.

    Raises:
        MeterError: the window holds fewer than 20 updates of the counter, or the counter did not move. What cannot be
            resolved is no number, and above all not 0 J.
    """
    if seconds < MIN_UPDATES * info.period_s:
        raise MeterError(
            f"unresolved: {seconds:.2f} s hold fewer than {MIN_UPDATES} updates of {info.name}",
            got=f"one update every {info.period_s:.3g} s",
            hint=f"measure for {MIN_UPDATES * info.period_s:.3g} s or longer",
        )
    if not joules > 0:
        hint = "the counter is stuck: run 'halfwatt doctor'"
        raise MeterError(f"unresolved: {info.name} shows {joules:.3g} J for {seconds:.2f} s", hint=hint)
    return joules
