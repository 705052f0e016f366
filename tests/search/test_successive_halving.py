"""Successive halving on students whose quality is known, and the way from a promoted student to its recipe."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import FixedTrial

from halfwatt.compress.base import StepContext
from halfwatt.compress.distil import Distil
from halfwatt.compress.pretrained import Adopt
from halfwatt.compress.prune import Prune
from halfwatt.compress.quantize.quantize import Quantize
from halfwatt.compress.recipe import Recipe, out_of_order
from halfwatt.compress.vocabulary_trim import Trim
from halfwatt.core.settings import Budget
from halfwatt.models.chat_model import load, write
from halfwatt.search.exploration import explore
from halfwatt.search.search_space import ORIGINAL, ROUND, STUDENT, Parent, Space, StudentSpace
from halfwatt.search.student_plan import Curriculum
from halfwatt.search.successive_halving import (
    RATE,
    StudentRound,
    Teaching,
    mean_gains,
    plan_teaching,
    promote,
    rank_students,
)
from halfwatt.search.teaching import enqueue_next_rounds
from halfwatt.search.trial_store import TrialOutcome, TrialStore, outcome_of
from tests.support import taught_students as taught

SCHOOL = StudentSpace(Teaching(1.0, 3), {ORIGINAL: Parent((), blocks=8, kv_heads=3, parameters=16_000_000)})


def student(name: str, cost: float | None, violation: float, number: int = 0, next_s: float = 30.0) -> StudentRound:
    return StudentRound({"name": name}, number, TrialOutcome(cost, violation), next_s)


def names(taught: list[StudentRound]) -> list[str]:
    return [str(t.decisions["name"]) for t in taught]


# --- who goes on ------------------------------------------------------------------------------------------------------


def test_the_best_are_the_cheapest_that_would_keep_the_constraint_in_the_end() -> None:
    small, middle, large = student("small", -3, 0.5), student("middle", -2, 0.3), student("large", -1, 0.2)
    assert names(rank_students([small, middle, large], [0.0, 0.0])) == ["large", "middle", "small"]
    assert names(rank_students([small, middle, large], [0.0, 0.35])) == ["middle", "large", "small"]
    assert names(rank_students([small, middle, large], [0.0, 0.35, 0.2])) == ["small", "middle", "large"]


def test_what_a_round_gained_is_told_by_those_who_went_through_it() -> None:
    taught = [student("a", -3, 0.5), student("b", -2, 0.4), student("c", -1, 0.3)]
    assert mean_gains(taught, 3) == [0.0, 0.0, 0.0]
    taught += [student("b", -2, 0.2, number=1), student("c", -1, 0.2, number=1)]
    assert mean_gains(taught, 3) == pytest.approx([0.0, 0.15, 0.15]), "the last one, unknown, counts as the one before"
    assert mean_gains([*taught, student("c", -1, 0.15, number=2)], 3) == pytest.approx([0.0, 0.15, 0.05])


def test_a_third_goes_on_once_and_nobody_before_there_are_three() -> None:
    three = [student("a", -3, 0.5), student("b", -2, 0.6), student("c", -1, 0.7)]
    assert promote(three[:2], 3, None, math.inf) == []
    assert names(promote(three, 3, None, math.inf)) == ["a"]
    assert promote([*three, student("a", -3, 0.45, number=1)], 3, None, math.inf) == []
    assert names(promote(three[:1], 3, None, math.inf, least=1)) == ["a"], "it is the only one that was planned"


def test_the_last_round_is_the_last() -> None:
    last = [student(name, -1, 0.5, number=2) for name in "abc"]
    assert promote(last, 3, None, math.inf) == []


def test_later_rounds_come_first() -> None:
    first = [student(name, -1 - n / 10, 0.5) for n, name in enumerate("abcdefghi")]
    second = [student(name, -1 - n / 10, 0.3, number=1) for n, name in enumerate("ghi")]
    found = promote([*first, *second], 3, None, math.inf)
    assert [(t.decisions["name"], t.round) for t in found] == [("i", 1)]


@pytest.mark.parametrize(
    ("bar", "left_s", "expected"),
    [
        (None, 30.0, ["a"]),
        (None, 29.0, []),  # a round of three times ten seconds does not fit any more
        (-2.5, 30.0, ["a"]),
        (-3.0, 30.0, []),  # what passed already takes no more than the best of them
    ],
)
def test_what_cannot_pay_does_not_go_on(bar: float | None, left_s: float, expected: list[str]) -> None:
    three = [student("a", -3, 0.5), student("b", -2, 0.6), student("c", -1, 0.7)]
    assert names(promote(three, 3, bar, left_s)) == expected


def test_who_has_no_time_left_makes_room_for_who_has() -> None:
    three = [student("a", -3, 0.5, next_s=60.0), student("b", -2, 0.6), student("c", -1, 0.7)]
    assert names(promote(three, 3, None, 59.0)) == ["b"]
    assert promote([*three, student("a", -3, 0.45, number=1)], 3, None, 59.0) == [], "its place is taken"


def test_once_the_large_one_passes_the_smallest_that_may_follow_is_taught_on() -> None:
    """First the one nearest to the constraint; what it gained says whom the same would bring there."""
    three = [student("a", -3, 0.9), student("b", -2, 0.5), student("c", -1, 0.3)]
    assert names(promote(three, 3, None, math.inf)) == ["c"]
    passed = student("c", -1, -0.01, number=1)
    assert names(promote([*three, passed], 3, -1.0, math.inf)) == ["b"], "0.31 in each of two rounds"


def test_what_passed_is_finished_and_what_failed_is_none() -> None:
    three = [student("passed", -3, -0.1), student("failed", None, 0.0), student("b", -2, 0.4)]
    assert names(promote(three, 3, None, math.inf)) == ["b"]


# --- what a budget allows ---------------------------------------------------------------------------------------------


@given(seconds=st.floats(60, 1e6), pace=st.floats(1e-7, 1e-2), tokens=st.integers(10_000, 10**9))
def test_a_plan_keeps_within_its_budget(seconds: float, pace: float, tokens: int) -> None:
    plan = plan_teaching(seconds, pace, tokens)
    if plan is None:
        assert min(0.6 * seconds / pace / 6, 6 * tokens) < 1_000_001
        return
    students = RATE ** (plan.rounds - 1)
    taught = sum(students // RATE**k * epochs for k, epochs in enumerate(plan.lessons(plan.rounds - 1)))
    assert taught * tokens * pace < 0.65 * seconds  # epochs are rounded to two digits
    assert sum(plan.lessons(plan.rounds - 1)) < 24.5


# --- from a decision to a recipe --------------------------------------------------------------------------------------


class Fixed:
    """Decides as told, else the first choice."""

    def __init__(self, number: int, **told: Any) -> None:
        self.user_attrs = {ROUND: number}
        self._told = told

    def suggest_categorical(self, name: str, choices: Any, /) -> Any:
        return self._told.get(name.replace(".", "_"), choices[0])

    def suggest_float(self, name: str, low: float, high: float, /, *, log: bool = False) -> float:
        return low


def test_a_student_is_cut_taught_and_rounded() -> None:
    told = {"base": STUDENT, "prune_width": 0.667, "prune_ffn": 0.25, "student_blocks": 0.375, "trim": False}
    recipe = Space(school=SCHOOL).recipe(Fixed(1, **told))
    cut, first, second, numbers = recipe.steps
    assert cut == Prune(0.667, 0.25, kv_heads=2, drop=5)
    assert isinstance(first, Distil)
    assert isinstance(second, Distil)
    assert (first.epochs, second.epochs, first.cached) == (1.0, 3.0, 32)
    assert numbers == Quantize(4, method="gptq")
    assert recipe.name == "student, 3 blocks, width 0.667, FFN 0.25, epochs 4"
    assert not out_of_order(recipe.steps)


def test_the_next_round_begins_with_the_steps_of_the_one_before() -> None:
    """So that it finds them made: prefixes are kept by content."""
    rounds = [Space(school=SCHOOL).recipe(Fixed(n, base=STUDENT)) for n in range(3)]
    for before, after in pairwise(rounds):
        assert after.steps[: len(before.steps) - 1] == before.steps[:-1]
        assert after.name != before.name


def test_smaller_students_learn_faster() -> None:
    rates = []
    for blocks in (0.25, 1.0):
        steps = Space(school=SCHOOL).recipe(Fixed(0, base=STUDENT, student_blocks=blocks, prune_ffn=1.0)).steps
        rates += [step.lr for step in steps if isinstance(step, Distil)]
    assert rates[0] > rates[1]
    assert 5e-4 < rates[1] < 3e-3


def test_where_width_and_heads_cannot_be_cut_they_are_left() -> None:
    school = StudentSpace(Teaching(0.4, 2), {ORIGINAL: Parent((), blocks=12, kv_heads=None, parameters=124_000_000)})
    steps = Space(school=school).recipe(Fixed(0, base=STUDENT)).steps
    cut = next(step for step in steps if isinstance(step, Prune))
    assert (cut.width, cut.kv_heads, cut.drop) == (1.0, None, 9)
    assert all("prune.width" not in decisions for decisions in school.first())
    assert all(step.cached == 32 for step in steps if isinstance(step, Distil)), "one answer serves all students"


def test_a_student_may_be_cut_from_what_was_made_before(tmp_path: Path) -> None:
    """With the vocabulary that it has, and by its own sizes; who reads other tokens cannot learn from the original."""
    told = taught.dialogues()[:8]
    context = StepContext(dialogues=tuple(told))
    model = load(taught.folder(tmp_path, "llama", told, taught.School(steps=1)))
    small = Prune(drop=1).apply(model, context)
    trimmed = Trim(0.9).apply(model, context)
    for name, made in {"small": small, "trimmed": trimmed}.items():
        (tmp_path / name).mkdir()
        write(made, tmp_path / name)
    adopted = tuple(Adopt(str(tmp_path / name)) for name in ("small", "trimmed"))
    space = Space.of(model, adopted, learned=True, curriculum=Curriculum(Teaching(1.0, 2)))
    assert space.school is not None
    assert list(space.school.parents) == [adopted[0].folder, ORIGINAL]
    recipe = space.recipe(Fixed(0, base=STUDENT, student_of=adopted[0].folder, student_blocks=1.0))
    assert recipe.name.startswith("student of small, 1 block,")
    assert [type(step) for step in recipe.steps] == [Adopt, Prune, Distil, Quantize]
    begun = [d for d in space.first() if d.get("base") == STUDENT]
    assert [d["student.of"] for d in begun] == [adopted[0].folder, ORIGINAL], "three are planned for: one of each"
    assert all("trim" not in d for d in begun if d["student.of"] != ORIGINAL)
    assert all(out_of_order(space.recipe(FixedTrial(d)).steps) == [] for d in begun)


# --- the whole search, planted ----------------------------------------------------------------------------------------


def taught_to(recipe: Recipe) -> TrialOutcome:
    """Cost is size; what is lost falls with size and epochs; 0.1 nats may go. What is not a student costs most."""
    cuts = [step for step in recipe.steps if isinstance(step, Prune)]
    if not cuts:
        return TrialOutcome(0.0, -0.05)
    size = (8 - cuts[0].drop) / 8 * cuts[0].width * (1 + 2 * cuts[0].ffn) / 3
    epochs = sum(step.epochs for step in recipe.steps if isinstance(step, Distil))
    return TrialOutcome(math.log(size), 0.1 / size**0.5 / epochs**0.5 - 0.1)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_small_student_is_found_that_only_the_last_round_makes_good_enough(tmp_path: Path, seed: int) -> None:
    study, space, budget = TrialStore(tmp_path / "journal", "planted", seed), Space(school=SCHOOL), Budget(trials=60)
    for decisions in space.first():
        study.enqueue(decisions)

    def ready() -> bool:
        enqueue_next_rounds(study, Curriculum(SCHOOL.teaching), Budget(seconds=1e9), lambda _: False)
        return True

    explore(study, space.recipe, taught_to, budget, go_on=ready)
    best = study.best()
    assert best is not None
    assert best.value is not None
    able = {
        taught_to(recipe).cost
        for n in range(3)
        for blocks in (0.25, 0.375, 0.5, 0.667, 1.0)
        for width in (0.5, 0.667, 0.75, 1.0)
        for ffn in (0.25, 0.5, 1.0)
        if taught_to(
            recipe := space.recipe(
                Fixed(n, base=STUDENT, student_blocks=blocks, prune_width=width, prune_ffn=ffn, trim=False)
            )
        ).violation
        <= 0
    }
    assert best.value < min(cost for cost in able if cost is not None) + 0.12, "the second smallest, or the smallest"
    untaught = space.recipe(FixedTrial(best.params))
    assert taught_to(untaught).violation > 0, "one round would not have been enough"
    assert outcome_of(best).violation <= 0
