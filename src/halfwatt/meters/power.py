"""A power sensor turned into joules: sampled by a small thread, integrated by trapezoids on the monotonic clock."""

from __future__ import annotations

import threading
from collections.abc import Callable

from halfwatt.core.errors import MeterError
from halfwatt.meters.base import MeterInfo, Reading
from halfwatt.meters.ticks import REAL, Clock, Periodic

SAMPLE_S = 0.1
MAX_GAP_S = 1.0  # between two samples; longer, and what was drawn meanwhile is not known
MAX_W = 20_000.0  # no machine that runs one model draws more


class PowerMeter:
    """Integrated power. Each read takes a sample too, so that a reading is never stale.

    A fault of the sampling thread (sensor gone, a gap in the samples, mains plugged in) is raised by the next read,
    once: readings on either side of it must not be compared, and after it counting goes on.
    """

    def __init__(self, info: MeterInfo, watts: Callable[[], float], clock: Clock = REAL) -> None:
        """watts: takes one sample; may raise `MeterError`.

        Raises:
            MeterError: the first sample cannot be taken.
        """
        self.info = info
        self._watts, self._clock, self._lock = watts, clock, threading.Lock()
        self._joules, self._fault = 0.0, None  # type: float, MeterError | None
        self._last: tuple[float, float] | None = None
        self.read()
        self._sampler = Periodic(SAMPLE_S, self._sample)

    def read(self) -> Reading:
        """Joules since the meter was opened.

        Raises:
            MeterError: a sample since the last read could not be taken, came too late, or was impossible.
        """
        with self._lock:
            self._step()
            fault, self._fault = self._fault, None
            if fault is not None or self._last is None:
                raise fault or MeterError(f"{self.info.name} gave no sample")
            return Reading(self._last[0], self._joules)

    def close(self) -> None:
        """End the sampling thread."""
        self._sampler.stop()

    def _sample(self) -> None:
        with self._lock:
            self._step()

    def _step(self) -> None:
        """Take a sample and add the trapezoid since the last; a fault is kept for the next read."""
        try:
            watts, now_s = self._watts(), self._clock.now()
            if not 0 <= watts <= MAX_W:
                raise MeterError(f"{self.info.name} shows {watts:.6g} W", hint="the sensor is faulty: see 'sensors'")
        except MeterError as error:
            self._fault, self._last = error, None
            return
        if self._last is not None:
            gap_s = now_s - self._last[0]
            if gap_s > MAX_GAP_S:
                hint = "the machine was too busy: measure again"
                self._fault = MeterError(f"{self.info.name} was not sampled for {gap_s:.1f} s", hint=hint)
            self._joules += gap_s * (watts + self._last[1]) / 2
        self._last = (now_s, watts)
