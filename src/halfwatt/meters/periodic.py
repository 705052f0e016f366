"""A call that repeats in the background while a meter is open."""

from __future__ import annotations

import threading
from collections.abc import Callable

from halfwatt.core.errors import MeterError


class Periodic:
    """Calls ``look`` every ``period_s`` seconds in a daemon thread, until stopped or until it raises `MeterError`.

    The error is not kept: the meter's next read meets the same fault itself.
    """

    def __init__(self, period_s: float, look: Callable[[], object]) -> None:
        self._period_s, self._look = period_s, look
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="halfwatt meter", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread and wait for it."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(self._period_s):
            try:
                self._look()
            except MeterError:
                return
