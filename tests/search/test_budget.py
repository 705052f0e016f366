"""What a search may cost, as typed, and when another trial is worth it."""

from __future__ import annotations

import pytest

from halfwatt.core.errors import BadInput
from halfwatt.core.settings import Budget
from halfwatt.search.budget import parse_budget, repays


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("10m", Budget(seconds=600)),
        ("1.5h", Budget(seconds=5400)),
        ("90 s", Budget(seconds=90)),
        ("500kJ", Budget(joules=500e3)),
        ("20", Budget(trials=20)),
        ("20 trials", Budget(trials=20)),
    ],
)
def test_a_budget_as_typed(text: str, budget: Budget) -> None:
    assert parse_budget(text) == budget


@pytest.mark.parametrize("text", ["", "0m", "ten minutes", "5 days", "-3", "2.5", "nanm", "1e9h"])
def test_what_is_no_budget_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="type --budget 10m"):
        parse_budget(text)


@pytest.mark.parametrize(("rate", "worth"), [(1000, True), (5, True), (4, False)])
def test_what_a_trial_may_cost_follows_from_what_is_left_to_save(rate: float, worth: bool) -> None:
    """200 CPU-seconds against 5 ms of every reply for a year: 4.57 replies an hour are the edge."""
    assert repays(200.0, 0.005, rate) is worth
