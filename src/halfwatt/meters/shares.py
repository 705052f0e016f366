"""What serving took, divided among the replies that were served: everything between two looks goes to somebody.

Between two looks the same replies are served, each by every pass, so each takes an equal part of the CPU time, of the
time and of the joules of the whole process, web server included. While nobody is served, it is idle.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from halfwatt.core.errors import MeterError
from halfwatt.meters.base import Usage
from halfwatt.meters.discover import Instruments
from halfwatt.meters.modelled import modelled_joules


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


class Shares:
    """Looks at the clocks and at the meter, always from one thread.

    idle: what was used while nobody was served; fault: why there are no joules any more
    """

    def __init__(self, tools: Instruments, bytes_moved: Callable[[], int]) -> None:
        """bytes_moved: by the model so far. Raises MeterError where the counter cannot be read."""
        self._tools, self._bytes_moved = tools, bytes_moved
        self.idle, self.all, self.fault = Spent(), Spent(), ""
        self._use, self._joules = self._look()

    def settle(self, served: Sequence[Spent]) -> None:
        """Divide what was used since the last look."""
        before, joules_before = self._use, self._joules
        self._use, self._joules = self._look()
        use = self._use - before
        joules = self._between(joules_before, self._joules, use)
        self.all.take(use, joules, 1)
        for spent in served or (self.idle,):
            spent.take(use, joules, max(1, len(served)))

    def _look(self) -> tuple[Usage, float | None]:
        use = Usage(time.process_time(), time.monotonic(), self._bytes_moved())
        if self._tools.primary is None or self.fault:
            return use, None
        try:
            return use, self._tools.primary.read().joules
        except MeterError as error:
            self.fault = str(error)
            return use, None

    def _between(self, before: float | None, after: float | None, use: Usage) -> float | None:
        if before is not None and after is not None:
            return after - before
        cores = self._tools.model and self._tools.model.cores
        return modelled_joules(use, cores) if cores and self._tools.primary is None else None
