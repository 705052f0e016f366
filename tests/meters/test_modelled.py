"""The meter for machines without one: a formula, and never more than a ratio."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfwatt.meters.base import Usage
from halfwatt.meters.modelled import DERIVED, INFO, Coefficients, ModelledMeter, modelled_joules
from tests.contracts import meters as contract

amounts = st.floats(0, 1e6)


def test_the_formula() -> None:
    made_up = Coefficients(static_w=2.0, active_w=3.0, j_per_byte=1e-9)
    assert modelled_joules(Usage(10.0, 5.0, 2_000_000_000), 4, made_up) == pytest.approx(2 * 4 * 5 + 3 * 10 + 2)


@given(cpu=amounts, wall=amounts, moved=st.integers(0, 10**15), more=st.floats(0.01, 1e3))
def test_more_of_anything_never_costs_less(cpu: float, wall: float, moved: int, more: float) -> None:
    base = modelled_joules(Usage(cpu, wall, moved), 4)
    assert modelled_joules(Usage(cpu + more, wall, moved), 4) > base
    assert modelled_joules(Usage(cpu, wall + more, moved), 4) > base
    assert modelled_joules(Usage(cpu, wall, moved + 10**9), 4) >= base
    assert modelled_joules(Usage(cpu, wall, moved), 8) >= base


def test_it_claims_ratios_only() -> None:
    assert (INFO.kind, INFO.grade) == ("modelled", "E")
    assert INFO.ratio_error == 0.5
    assert "absolute joules" in INFO.not_covered


def test_the_contract() -> None:
    now = [0.0]

    def pass_time(seconds: float) -> None:
        now[0] += seconds

    meter = ModelledMeter(lambda: Usage(now[0], now[0], 0), cores=4)
    contract.says_what_it_is(meter)
    contract.keeps_counting(meter, pass_time, watts=4 * DERIVED.static_w + DERIVED.active_w)
    contract.raises_when_broken(meter, lambda: pass_time(float("nan")), "not known")
    contract.closes_twice(meter)
