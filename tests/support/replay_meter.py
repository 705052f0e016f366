"""A recorded trace of a real meter, played again: the same joules at the same times. Its kind says "replayed".

A trace is JSON lines. The first tells where the joules come from, the others are readings since the recording began:

    {"halfwatt_trace": 1, "info": {"name": "nvml:0", ...}}
    {"t_s": 0.0, "joules": 0.0}
    {"t_s": 0.1, "joules": 12.3}
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path

from halfwatt.core.errors import BadInput, MeterError
from halfwatt.core.files import write_atomic
from halfwatt.meters.base import EnergyMeter, MeterInfo, Reading
from halfwatt.meters.ticks import REAL, Clock

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Trace:
    """Readings of one meter; times and joules start at 0 and never fall."""

    info: MeterInfo  # of the meter that was recorded
    readings: tuple[Reading, ...]


class ReplayMeter:
    """Plays a trace from the moment it is opened. Between two readings the counter stands, as it did then."""

    def __init__(self, trace: Trace, clock: Clock = REAL) -> None:
        self._trace, self._clock = trace, clock
        self._times = [reading.t_s for reading in trace.readings]
        self._begun = clock.now()
        self.info = replace(trace.info, name=f"replay:{trace.info.name}", kind="replayed")

    def read(self) -> Reading:
        """Joules of the trace at this time since opening.

        Raises:
            MeterError: the trace is over.
        """
        now = self._clock.now()
        played_s = now - self._begun
        if played_s > self._times[-1]:
            raise MeterError(f"{self.info.name} is over after {self._times[-1]:.1f} s", hint="record a longer trace")
        return Reading(now, self._trace.readings[bisect_right(self._times, played_s) - 1].joules)

    def close(self) -> None:
        """Nothing is held open."""


def load(path: Path) -> Trace:
    """Read a trace.

    Raises:
        BadInput: not a trace, or one whose times or joules fall; names the line.
    """
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        header, rows = lines[0], lines[1:]
        if header["halfwatt_trace"] != FORMAT:
            raise ValueError(f"format {header['halfwatt_trace']}, expected {FORMAT}")
        info = MeterInfo(**header["info"])
        readings = tuple(Reading(float(row["t_s"]), float(row["joules"])) for row in rows)
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise BadInput(f"{path} is not a trace", got=str(error), hint="record one") from error
    _check(path, readings)
    return Trace(info, readings)


def record(meter: EnergyMeter, seconds: float, to: Path, *, period_s: float = 0.02, clock: Clock = REAL) -> Path:
    """Read ``meter`` every ``period_s`` for ``seconds`` and write the trace to ``to``.

    Raises:
        MeterError: the meter could not be read; nothing is written.
    """
    first = meter.read()
    readings = [Reading(0.0, 0.0)]
    while readings[-1].t_s < seconds:
        clock.sleep(period_s)
        now = meter.read()
        readings.append(Reading(now.t_s - first.t_s, now.joules - first.joules))
    rows = [{"halfwatt_trace": FORMAT, "info": asdict(meter.info)}, *(asdict(reading) for reading in readings)]
    write_atomic(to, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode())
    return to


def _check(path: Path, readings: Sequence[Reading]) -> None:
    if len(readings) < 2 or readings[0] != Reading(0.0, 0.0):
        raise BadInput(f"{path} is not a trace", got=f"{len(readings)} readings, or a start other than 0 s and 0 J")
    for line, (a, b) in enumerate(pairwise(readings), start=3):
        if not (b.t_s > a.t_s and b.joules >= a.joules):
            raise BadInput(f"{path}:{line} runs backwards", got=f"{b.t_s} s, {b.joules} J", hint="record it again")
