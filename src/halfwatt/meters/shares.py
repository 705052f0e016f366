"""What serving took, divided among the replies that were served: everything between two looks goes to somebody.

Between two looks the same replies are served, each by every pass, so each takes an equal part of the CPU time, of the
time and of the joules of the whole process, web server included. While nobody is served, it is idle. Where several
models answer in one process they take turns (`Shares.turn`), or it could not be told which of them took what.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from halfwatt.core.errors import MeterError
from halfwatt.meters.base import Usage
from halfwatt.meters.discover import Instruments


@dataclass(slots=True)
class Spent:
    """A reply's part so far. joules: None = nothing measures them, or the counter failed meanwhile."""

    cpu_s: float = 0.0
    wall_s: float = 0.0
    bytes_b: float = 0.0
    joules: float | None = 0.0

    def take(self, use: Usage, joules: float | None, parts: int) -> None:
        """One of so many equal parts."""
        self.cpu_s += use.cpu_s / parts
        self.wall_s += use.wall_s / parts
        self.bytes_b += use.bytes_b / parts
        self.joules = None if joules is None or self.joules is None else self.joules + joules / parts


class Turnstile:
    """A lock that lets through in the order of arrival: one that is taken again at once would keep all others out."""

    def __init__(self) -> None:
        self._moved, self._next, self._through = threading.Condition(), 0, 0

    def __enter__(self) -> None:
        with self._moved:
            mine, self._next = self._next, self._next + 1
            self._moved.wait_for(lambda: self._through == mine)

    def __exit__(self, *_: object) -> None:
        with self._moved:
            self._through += 1
            self._moved.notify_all()


class Shares:
    """Looks at the clocks and at the meter.

    turn: held by who works, and who settles; serving, idle: what was used while somebody was served, and nobody; fault:
    why there are no joules any more
    """

    def __init__(self, tools: Instruments) -> None:
        self.tools, self.turn = tools, Turnstile()
        self._bytes_moved = list[Callable[[], int]]()
        self.idle, self.serving, self.fault = Spent(), Spent(), ""
        self._use, self._joules = self._look()

    def add(self, bytes_moved: Callable[[], int]) -> None:
        """One more model. bytes_moved: by it so far."""
        with self.turn:
            self._bytes_moved.append(bytes_moved)
            self._use, self._joules = self._look()

    @property
    def several(self) -> bool:
        """Do several models take turns?"""
        return len(self._bytes_moved) > 1

    def settle(self, served: Sequence[Spent]) -> None:
        """Divide what was used since the last look, in one's turn."""
        before, joules_before = self._use, self._joules
        self._use, self._joules = self._look()
        use = self._use - before
        joules = self._between(joules_before, self._joules, use)
        (self.serving if served else self.idle).take(use, joules, 1)
        for spent in served:
            spent.take(use, joules, len(served))

    def _look(self) -> tuple[Usage, float | None]:
        moved = sum(bytes_moved() for bytes_moved in self._bytes_moved)
        use = Usage(time.process_time(), time.monotonic(), moved)
        if self.tools.primary is None or self.fault:
            return use, None
        try:
            return use, self.tools.primary.read().joules
        except MeterError as error:
            self.fault = str(error)
            return use, None

    def _between(self, before: float | None, after: float | None, use: Usage) -> float | None:
        if before is not None and after is not None:
            return after - before
        return self.tools.modelled_joules(use)
