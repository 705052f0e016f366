"""What every energy meter has to keep, whatever it reads. Each meter's tests call these with a world they control."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import pytest

from halfwatt.core.errors import MeterError
from halfwatt.meters.base import EnergyMeter, Grade, Kind


def keeps_counting(meter: EnergyMeter, pass_time: Callable[[float], None], watts: float) -> None:
    """It never falls, is never negative, and shows the joules that were spent."""
    readings = [meter.read()]
    for seconds in (0.2, 1.0, 0.5, 3.0):
        pass_time(seconds)
        readings.append(meter.read())
    joules, times = [r.joules for r in readings], [r.t_s for r in readings]
    assert joules == sorted(joules)
    assert times == sorted(times)
    assert joules[0] >= 0
    assert joules[-1] - joules[0] == pytest.approx(watts * 4.7, rel=0.05)


def says_what_it_is(meter: EnergyMeter) -> None:
    """Scope, grade and kind are filled in, in words."""
    info = meter.info
    assert info.name
    assert info.domain
    assert info.covers
    assert info.not_covered
    assert info.grade in get_args(Grade)
    assert info.kind in get_args(Kind)
    assert info.period_s >= 0
    assert info.step_j >= 0


def raises_when_broken(meter: EnergyMeter, break_it: Callable[[], None], saying: str) -> None:
    """A source that fails gives an error that names the cause, and no number."""
    meter.read()
    break_it()
    with pytest.raises(MeterError, match=saying):
        meter.read()


def closes_twice(meter: EnergyMeter) -> None:
    """Closing again does nothing."""
    meter.close()
    meter.close()
