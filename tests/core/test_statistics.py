"""Intervals against closed forms, scipy, and simulations that count how often they hold the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from halfwatt.core.errors import BadInput
from halfwatt.core.estimate import Estimate
from halfwatt.core.statistics import (
    Clustered,
    clustered_ratio,
    difference,
    jackknife,
    log_ratio,
    mean,
    rate_difference,
    widened,
)

RNG = np.random.default_rng


def test_a_mean_has_students_interval() -> None:
    values = [1.0, 2.0, 4.0, 4.5]
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    found = mean(values, "J")
    assert (found.mean, found.lo, found.hi, found.n) == pytest.approx((2.875, low, high, 4))


def test_one_value_has_no_interval() -> None:
    with pytest.raises(BadInput, match="two or more"):
        mean([1.0], "J")


@given(st.lists(st.tuples(st.floats(0.01, 100), st.floats(0.01, 100)), min_size=2, max_size=20), st.floats(0.1, 10))
def test_a_ratio_does_not_care_for_units_and_turns_around(pairs: list[tuple[float, float]], scale: float) -> None:
    a, b = [p[0] for p in pairs], [p[1] for p in pairs]
    found, back = log_ratio(a, b), log_ratio(b, a)
    assert found.mean == pytest.approx(1 / back.mean)
    assert found.lo == pytest.approx(1 / back.hi)
    assert log_ratio([scale * x for x in a], [scale * x for x in b]).hi == pytest.approx(found.hi)


def test_what_all_blocks_share_cancels_in_a_ratio() -> None:
    drift = np.linspace(1, 3, 6)
    assert log_ratio(list(2 * drift), list(drift)).hi == pytest.approx(2.0)


def test_a_ratio_of_nothing_is_refused() -> None:
    with pytest.raises(BadInput, match="positive"):
        log_ratio([1.0, 0.0], [1.0, 1.0])


def test_ninety_five_percent_of_ratios_hold_the_truth() -> None:
    rng = RNG(0)
    held = 0
    for _ in range(1000):
        found = log_ratio(list(2 * rng.lognormal(0, 0.1, 6)), list(rng.lognormal(0, 0.1, 6)))
        held += found.lo <= 2 <= found.hi
    assert 930 <= held <= 970


def test_a_systematic_error_joins_in_quadrature_on_the_log_scale() -> None:
    found = widened(Estimate(2.0, 2.0 / 1.1, 2.0 * 1.1, "x", 7), 0.5)
    spread = math.hypot(math.log(1.1), math.log(1.5))
    assert (found.lo, found.hi) == pytest.approx((2 * math.exp(-spread), 2 * math.exp(spread)))
    plain = Estimate(2.0, 1.9, 2.2, "x", 7)
    assert (widened(plain, 0.0).lo, widened(plain, 0.0).hi) == pytest.approx((1.9, 2.2))


def test_a_difference_adds_in_quadrature() -> None:
    found = difference(Estimate(5, 4, 6, "J", 7), Estimate(2, 1, 3, "J", 9))
    assert (found.mean, found.lo, found.hi, found.n) == pytest.approx((3, 3 - 2**0.5, 3 + 2**0.5, 7))


def test_equal_clusters_give_the_plain_t_bound() -> None:
    x = RNG(1).normal(0.3, 1.0, 50)
    found = clustered_ratio(x * 10, np.full(50, 10.0))
    half = stats.t.ppf(0.95, 49) * stats.sem(x)
    assert (found.mean, found.lo, found.hi) == pytest.approx((x.mean(), x.mean() - half, x.mean() + half), rel=1e-6)


def test_clusters_keep_the_false_pass_rate_where_counting_tokens_does_not() -> None:
    """Dialogues of 60 tokens whose mean is exactly at the margin of 0.02: 5 % may pass; by tokens 15 % do."""
    rng, margin, tokens = RNG(2), 0.02, 60
    by_dialogue = by_token = 0
    runs = 1500
    for _ in range(runs):
        x = rng.normal(margin, 0.05, (100, 1)) + rng.normal(0, 0.3, (100, tokens))
        by_dialogue += clustered_ratio(x.sum(axis=1), np.full(100, float(tokens))).hi < margin
        by_token += x.mean() + 1.645 * x.std() / math.sqrt(x.size) < margin
    assert 0.03 <= by_dialogue / runs <= 0.07
    assert by_token / runs > 0.10


@pytest.mark.parametrize(
    ("x", "size"), [([1.0], [1.0]), ([1.0, math.nan], [1.0, 1.0]), ([1.0, 1.0], [0.0, 0.0])], ids=["one", "nan", "none"]
)
def test_figures_that_cannot_be_judged_raise(x: list[float], size: list[float]) -> None:
    with pytest.raises(BadInput):
        clustered_ratio(np.array(x), np.array(size))


@pytest.mark.parametrize("n", [60, 150, 300, 700])
def test_no_failure_at_all_still_depends_on_how_many_were_seen(n: int) -> None:
    """Not narrower than the score bound z^2 / (n + z^2), about as wide as the exact bound 3 / n."""
    none = np.zeros(n)
    found = rate_difference(none, none, np.full(n, 3.0))
    exact = 1 - 0.05 ** (1 / n)
    assert found.mean == 0
    assert exact * 0.85 <= found.hi <= 1.6 * exact


def test_where_no_pair_disagrees_a_stricter_bound_is_further_away() -> None:
    """144 dialogues: 1.8 % may be so in one run of twenty, 2.6 % in one of forty."""
    none = np.zeros(144)
    bounds = [rate_difference(none, none, np.ones(144), alpha).hi for alpha in (0.05, 0.025)]
    assert bounds == pytest.approx([1.645**2 / (144 + 1.645**2), 1.96**2 / (144 + 1.96**2)], abs=1e-3)


def test_a_rate_at_the_margin_is_rarely_passed() -> None:
    rng, margin, n, runs = RNG(3), 0.02, 400, 2000
    passed = 0
    for _ in range(runs):
        kind = rng.choice(3, n, p=[0.03, 0.05, 0.92])  # only the reference fails, only the candidate, neither or both
        ref, cand = (kind == 0).astype(float), (kind == 1).astype(float)
        passed += rate_difference(ref, cand, np.ones(n)).hi < margin
    assert passed / runs <= 0.06


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    x = RNG(4).normal(0, 1, 40)
    without = (x.sum() - x) / 39
    assert jackknife(float(x.mean()), without).se == pytest.approx(stats.sem(x))


def test_how_many_dialogues_it_takes() -> None:
    found = Clustered(0.0, 0.01, 100)
    assert found.needed(0.01) == math.ceil(100 * (1.6449 + 0.8416) ** 2)
    assert found.needed(-0.001) is None
