"""The meter for machines without one: a formula, and never more than a ratio."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfwatt.core.errors import MeterError
from halfwatt.meters.base import Usage
from halfwatt.meters.modelled import INFO, Coefficients, modelled_joules

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
    assert INFO.cores is None, "that of a machine says for how many: see test_discover.py"
    assert "absolute joules" in INFO.not_covered


@pytest.mark.parametrize("use", [Usage(-1.0, 1.0, 0), Usage(1.0, float("nan"), 0), Usage(1.0, 1.0, -1)])
def test_an_impossible_use_is_no_number(use: Usage) -> None:
    with pytest.raises(MeterError, match="not known"):
        modelled_joules(use, 4)
