"""Successive halving: many students are taught a little, and those that promise most are taught on. Pure.

    round 0    every student, some epochs
    round k    the best third of round k-1, from where it stood, three times as long

Students differ in what a reply takes and in what they lose. The best are the cheapest of those that would keep the
constraint in the end, if they gain by each round what others gained; then those that miss it by least. A student that
keeps the constraint is finished, one that takes more than the cheapest of those is given up. No round waits for the one
before to end, so that workers can share them (asynchronous successive halving, ASHA, arXiv 1810.05934).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from statistics import fmean
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from halfwatt.search.trial_store import TrialOutcome

RATE = 3  # one in so many goes on, and learns so many times as long
MIN_TOKENS = 1_000_000  # of the first round: fewer tell little, and take less time than cutting and measuring do
_SHARE = 0.6  # of the budget's time; the rest is for cutting, rounding, measuring and what needs no training
_MOST_EPOCHS = 24.0  # of a student, all its rounds together


@dataclass(frozen=True, slots=True)
class Teaching:
    """How long students learn: ``epochs`` in the first round, and so many ``rounds`` at most."""

    epochs: float
    rounds: int

    def lessons(self, until: int) -> tuple[float, ...]:
        """Epochs of each round up to round ``until``."""
        return tuple(float(f"{self.epochs * RATE**k:.3g}") for k in range(until + 1))


@dataclass(frozen=True, slots=True)
class StudentRound:
    """A student after a round: the decisions that made it, what it came to, and the seconds that its next one takes."""

    decisions: Mapping[str, Any]
    round: int
    outcome: TrialOutcome
    next_s: float
    recipe: str = ""


def plan_teaching(seconds: float, s_per_token: float, tokens: int) -> Teaching | None:
    """What a budget of ``seconds`` and so many tokens to learn from allow; None = too little for anyone to learn.

    >>> plan_teaching(7200, 1e-4, 1_600_000)
    Teaching(epochs=1.0, rounds=3)
    >>> plan_teaching(1200, 1e-4, 1_600_000)
    Teaching(epochs=0.75, rounds=2)
    >>> plan_teaching(60, 1e-4, 1_600_000) is plan_teaching(7200, 1e-4, 30_000) is None
    True
    """
    for rounds in (3, 2):
        students = RATE ** (rounds - 1)
        first = _SHARE * seconds / s_per_token / (rounds * students)  # every round costs as much as the first
        epochs = min(first / tokens, _MOST_EPOCHS / sum(RATE**k for k in range(rounds)))
        if epochs * tokens >= MIN_TOKENS:
            return Teaching(float(f"{epochs:.2g}"), rounds)
    return None


def promote(
    students: Sequence[StudentRound], rounds: int, least_cost: float | None, left_s: float, *, least: int = 0
) -> list[StudentRound]:
    """Who goes on to the next round and has not yet, those of later rounds first. Whose next round would not fit into
    the time is out of the contest. least_cost: that keeps the constraint so far; None = nothing does. least: so many
    go on, however few there are."""
    promotions, gains = list[StudentRound](), mean_gains(students, rounds)
    for number in reversed(range(rounds - 1)):
        here = [t for t in students if t.round == number]
        gone = [t.decisions for t in students if t.round == number + 1]
        able = [t for t in here if _worth_it(t, least_cost) and (t.decisions in gone or t.next_s <= left_s)]
        best = rank_students(able, gains)[: max(least, len(here) // RATE)]
        promotions += [t for t in best if t.decisions not in gone]
    return promotions


def mean_gains(students: Sequence[StudentRound], rounds: int) -> list[float]:
    """By how much less students missed the constraint after each round than after the one before, on the mean; a round
    that nobody has been through is taken to be worth as much as the one before it, the first of them nothing."""
    gains = [0.0]
    for number in range(1, rounds):
        pairs = [
            before.outcome.violation - after.outcome.violation
            for before, after in permutations(students, 2)
            if (before.round, after.round) == (number - 1, number) and before.decisions == after.decisions
        ]
        gains.append(fmean(pairs) if pairs else gains[-1])
    return gains


def rank_students(students: Sequence[StudentRound], gains: Sequence[float]) -> list[StudentRound]:
    """The best first, see above. gains: by each round, see `mean_gains`."""

    def key(t: StudentRound) -> tuple[float, float]:
        in_the_end = t.outcome.violation - sum(gains[t.round + 1 :])
        assert t.outcome.cost is not None, "what has none is not worth it"
        return t.outcome.violation if in_the_end > 0 else 0.0, t.outcome.cost

    return sorted(students, key=key)


def _worth_it(t: StudentRound, least_cost: float | None) -> bool:
    cost = t.outcome.cost
    return cost is not None and t.outcome.violation > 0 and (least_cost is None or cost < least_cost)
