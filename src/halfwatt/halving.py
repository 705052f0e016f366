"""Successive halving: many students are taught a little, and those that promise most are taught on. Pure.

    round 0    every student, some epochs
    round k    the best third of round k-1, from where it stood, three times as long

Students differ in what a reply takes and in what they lose: the best are those that few others beat in both (Pareto
fronts), and among equals those that miss the constraint by least. A student that keeps the constraint is finished, one
that takes more than the cheapest of those is given up. No round waits for the one before to end, so that workers can
share them (asynchronous successive halving, ASHA, arXiv 1810.05934).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from halfwatt.study import Found

RATE = 3  # one in so many goes on, and learns so many times as long

MIN_TOKENS = 500_000  # of the first round: what is learned from fewer tells nothing of what could be
_SHARE = 0.75  # of the budget's time; the rest is for measuring and for what needs no training
_MOST_EPOCHS = 24.0  # of a student, all its rounds together


@dataclass(frozen=True, slots=True)
class Teaching:
    """How long students learn: ``epochs`` in the first round, and so many ``rounds`` at most."""

    epochs: float
    rounds: int

    def lessons(self, until: int) -> tuple[float, ...]:
        """Epochs of each round up to round ``until``."""
        return tuple(self.epochs * RATE**k for k in range(until + 1))


@dataclass(frozen=True, slots=True)
class Taught:
    """A student after a round: the decisions that made it, what it came to, and the seconds that the round took."""

    decisions: Mapping[str, Any]
    round: int
    found: Found
    seconds: float


def planned(seconds: float, s_per_token: float, tokens: int) -> Teaching | None:
    """What a budget of ``seconds`` and these dialogues allow; None = too little for anyone to learn from.

    Args:
        s_per_token: of training a student.
        tokens: of the dialogues to learn from.

    >>> planned(7200, 1e-4, 1_600_000)
    Teaching(epochs=1.2, rounds=3)
    >>> planned(600, 1e-4, 1_600_000)
    Teaching(epochs=0.47, rounds=2)
    >>> planned(60, 1e-4, 1_600_000) is planned(7200, 1e-4, 30_000) is None
    True
    """
    for rounds in (3, 2):
        students = RATE ** (rounds - 1)
        first = _SHARE * seconds / s_per_token / (rounds * students)  # every round costs as much as the first
        epochs = min(first / tokens, _MOST_EPOCHS / sum(RATE**k for k in range(rounds)))
        if epochs * tokens >= MIN_TOKENS:
            return Teaching(float(f"{epochs:.2g}"), rounds)
    return None


def promoted(taught: Sequence[Taught], rounds: int, bar: float | None, left_s: float) -> list[Taught]:
    """Who goes on to the next round and has not yet, those of later rounds first.

    Args:
        bar: the least cost that keeps the constraint so far; None = nothing does.
        left_s: seconds of the budget.
    """
    found = []
    for number in reversed(range(rounds - 1)):
        here = [t for t in taught if t.round == number]
        gone = [t.decisions for t in taught if t.round == number + 1]
        best = ranked([t for t in here if _worth_it(t, bar)])[: len(here) // RATE]
        found += [t for t in best if t.decisions not in gone and RATE * t.seconds <= left_s]
    return found


def ranked(taught: Sequence[Taught]) -> list[Taught]:
    """The best first, see above."""
    return sorted(taught, key=lambda t: (sum(_beats(other, t) for other in taught), t.found.violation))


def _beats(a: Taught, b: Taught) -> bool:
    """Is ``a`` better in one and no worse in the other?"""
    ours, theirs = _figures(a), _figures(b)
    return ours != theirs and all(x <= y for x, y in zip(ours, theirs, strict=True))


def _figures(t: Taught) -> tuple[float, float]:
    assert t.found.cost is not None
    return t.found.cost, t.found.violation


def _worth_it(t: Taught, bar: float | None) -> bool:
    cost = t.found.cost
    return cost is not None and t.found.violation > 0 and (bar is None or cost < bar)
