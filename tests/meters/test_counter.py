"""Counters, ticks and integrated power, on sequences whose joules are known."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfwatt.core.errors import MeterError
from halfwatt.meters.base import MeterInfo
from halfwatt.meters.counter import Counter
from halfwatt.meters.power import PowerMeter
from halfwatt.meters.ticks import Clock, resolved, tick_of
from tests.contracts import meters as contract

INFO = MeterInfo("rail", "board rail", "measured", "C", "a rail", "the rest", 0.1, 0.0, 0.0)


class Time:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 50.0

    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @property
    def clock(self) -> Clock:
        return Clock(now=lambda: self.now, sleep=self.pass_time)


@given(
    start=st.floats(0, 999.9),
    rises=st.lists(st.floats(0, 400), min_size=1, max_size=30),
)
def test_any_number_of_wraps_adds_up_when_each_is_seen(start: float, rises: list[float]) -> None:
    counter = Counter("zone", max_w=1000.0, range_j=1000.0)
    true_j = start
    counter.advance(0.0, start)
    for step, rise in enumerate(rises, start=1):
        true_j += rise
        assert counter.advance(step * 0.5, true_j % 1000.0) == pytest.approx(true_j - start, abs=1e-6)


@given(looks=st.lists(st.floats(0, 1000), min_size=2, max_size=30))
def test_whatever_it_shows_the_total_never_falls(looks: list[float]) -> None:
    counter = Counter("zone", max_w=1000.0, range_j=1000.0)
    seen = []
    for step, raw_j in enumerate(looks):
        try:
            seen.append(counter.advance(step * 0.4, raw_j))
        except MeterError:
            break
    assert all(b >= a >= 0 for a, b in pairwise(seen))


def test_a_counter_that_does_not_wrap_may_not_fall() -> None:
    counter = Counter("nvml:0", max_w=700.0)
    counter.advance(0.0, 100.0)
    with pytest.raises(MeterError, match="no wrap"):
        counter.advance(1.0, 99.0)


def test_the_period_of_a_counter_is_found() -> None:
    time = Time()
    found = tick_of(lambda: float(int(time.now / 0.1 + 1e-9)) * 5.0, poll_s=0.001, limit_s=2.0, clock=time.clock)
    assert found is not None
    assert found.period_s == pytest.approx(0.1, abs=0.002)
    assert found.step == pytest.approx(5.0)


def test_a_counter_that_stands_still_has_no_period() -> None:
    assert tick_of(lambda: 3.0, poll_s=0.01, clock=Time().clock) is None


@pytest.mark.parametrize(("joules", "seconds"), [(5.0, 1.9), (0.0, 10.0), (-1.0, 10.0), (float("nan"), 10.0)])
def test_what_is_not_resolved_is_no_number(joules: float, seconds: float) -> None:
    with pytest.raises(MeterError, match="unresolved"):
        resolved(INFO, joules, seconds)


def test_integrated_power_is_the_area_under_it() -> None:
    time = Time()
    meter = PowerMeter(INFO, lambda: 5.0, time.clock)
    try:
        contract.says_what_it_is(meter)
        before = meter.read().joules
        for _ in range(50):
            time.pass_time(0.1)
            meter.read()
        assert meter.read().joules - before == pytest.approx(25.0)
    finally:
        contract.closes_twice(meter)


@pytest.mark.parametrize("watts", [-1.0, 1e9, float("nan")])
def test_impossible_power_is_refused(watts: float) -> None:
    with pytest.raises(MeterError, match="shows"):
        PowerMeter(INFO, lambda: watts, Time().clock)


def test_a_gap_in_the_samples_is_an_error_not_a_guess() -> None:
    time = Time()
    meter = PowerMeter(INFO, lambda: 5.0, time.clock)
    try:
        time.pass_time(30.0)
        with pytest.raises(MeterError, match="not sampled for"):
            meter.read()
    finally:
        meter.close()
