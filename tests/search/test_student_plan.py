"""What a time can teach fresh students: the sizes, the lessons, what would be enough, and what becomes of a plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import FixedTrial

from halfwatt.compress.distil import Distil
from halfwatt.compress.fresh_student import Student
from halfwatt.compress.pretrained import Adopt
from halfwatt.compress.prune import Prune
from halfwatt.compress.recipe import from_toml, out_of_order, to_toml
from halfwatt.compress.vocabulary_trim import Trim
from halfwatt.core.settings import Budget
from halfwatt.models.chat_model import load
from halfwatt.search.search_space import ASKED, BASE, FRESH, ORIGINAL, ROUND, STUDENT, FreshSpace, Space
from halfwatt.search.student_plan import (
    ENOUGH,
    SIZES,
    Curriculum,
    Pace,
    Paces,
    StudentPlan,
    TeachingPlan,
    needed_s,
    parameters,
    plan_students,
)
from halfwatt.search.successive_halving import RATE, Teaching
from halfwatt.search.teaching import enqueue_next_rounds, lesson_s
from halfwatt.search.trial_store import RECIPE, TrialOutcome, TrialStore
from tests.support import tiny_models as tiny

PACES = Paces(700_000, 6720, Pace(6e-5, 2.2e-11), asking_s=1.2e-3)  # SmolLM2 on two cores, bf16
OPENED = replace(PACES, blocks=30, block_parameters=3_540_096, other_parameters=3_871_296)


def planned(seconds: float, paces: Paces = PACES) -> StudentPlan:
    plan = plan_students(seconds, paces)
    assert plan is not None
    return plan


@pytest.mark.parametrize("student", SIZES, ids=str)
def test_parameters_are_those_of_the_network(student: Student, tmp_path: Path) -> None:
    model = load(tiny.folder(tmp_path, "gpt2"))
    with torch.device("meta"):
        network = student.resized(model)
    assert parameters(student, model.network.config.vocab_size) == sum(p.numel() for p in network.parameters())


def test_a_pace_goes_through_both_that_were_measured() -> None:
    pace = Pace.through((5_000_000, 1.6e-4), (20_000_000, 5.2e-4))
    assert pace.of(5_000_000) == pytest.approx(1.6e-4)
    assert pace.of(20_000_000) == pytest.approx(5.2e-4)
    assert Pace.through((5_000_000, 2e-4), (20_000_000, 1e-4)).of(0) > 0, "noise never makes the large one faster"


@given(seconds=st.floats(60, 1e6), tokens=st.integers(10_000, 10**9))
def test_a_plan_keeps_within_its_time(seconds: float, tokens: int) -> None:
    plan = plan_students(seconds, replace(PACES, tokens=tokens))
    if plan is None:
        assert plan_students(seconds / 2, replace(PACES, tokens=tokens)) is None
        return
    lessons = sum(max(1, plan.students // RATE**k) * RATE**k for k in range(plan.rounds))
    assert lessons * plan.first_s <= seconds * 1.001
    for p in plan.prospects:
        epochs = plan.lessons(p, plan.rounds - 1)
        assert sum(epochs) == pytest.approx(p.passes, rel=0.02)
        assert p.passes <= 24
        assert p.tokens >= ENOUGH
        assert p.seconds <= plan.first_s * sum(RATE**k for k in range(plan.rounds)) * 1.001


def test_more_time_goes_into_larger_students_then_into_more_of_them() -> None:
    hour, day = planned(0.7 * 3600), planned(0.7 * 24 * 3600)
    assert (hour.students, day.students) == (1, 9)
    assert hour.prospects[0].parameters < day.prospects[0].parameters
    assert hour.prospects[0].tokens >= 0.75 * hour.prospects[0].parameters


def test_what_would_be_enough_is_told() -> None:
    paces = PACES
    short = TeachingPlan.of(120, paces)
    assert (short.curriculum.cut, short.curriculum.fresh) == (None, None)
    (line,) = short.lines
    minutes = int(line.split("--budget ")[1].removesuffix("m"))
    assert TeachingPlan.of(60 * minutes, paces).curriculum.fresh is not None
    assert TeachingPlan.of(60 * 0.8 * minutes, paces).curriculum.fresh is None
    few = TeachingPlan.of(3600, replace(paces, tokens=20_000))
    assert "20,000 tokens are too few" in few.lines[0]
    assert needed_s(lambda _: None) is None


def test_an_hour_in_words() -> None:
    (line,) = TeachingPlan.of(3600, PACES).lines
    assert "4 blocks of 384, 9.5M parameters" in line
    assert "in 42 of the 60 minutes" in line


def test_cutting_is_for_originals_that_are_read_fast() -> None:
    paces = (replace(PACES, asking_s=s) for s in (1.2e-4, 1.2e-3))
    fast, slow = (TeachingPlan.of(3600, each).curriculum for each in paces)
    assert fast.cut is not None
    assert slow.cut is None
    assert slow.fresh is not None
    assert 0 < slow.asked < 1, "of all its dialogues the original could not be asked"


def test_blocks_of_the_original_come_before_random_weights() -> None:
    plan = planned(0.7 * 3600, OPENED)
    assert [p.name for p in plan.prospects[:4]] == [f"{n} blocks of the original" for n in (3, 2, 4, 8)]
    assert plan.prospects[2].parameters == 18_031_680, "SmolLM2's, of 6,720 tokens"
    assert (plan.students, plan.rounds) == (1, 1), "a look at it would change nothing"
    assert planned(0.7 * 3600).rounds == 2, "a fresh one may hear the original in its second lesson"
    assert plan.prospects[4].student is not None
    short = planned(600, OPENED)
    assert short.prospects[0].blocks == 3, "they learn enough where fresh ones do not"
    space = FreshSpace(plan, blocks=30)
    first = space.student([], Chosen(space.first()[0]))
    assert first.steps[0] == Prune(drop=27, chosen="middle")
    assert first.name.startswith("taught by people, 3 blocks of the original, epochs ")


class Chosen(FixedTrial):
    """Decisions, and what was settled before them."""

    def __init__(self, decisions: Mapping[str, Any], **settled: Any) -> None:
        super().__init__(dict(decisions))
        self._settled = settled

    @property
    def user_attrs(self) -> dict[str, Any]:
        return self._settled


def test_lessons_that_the_sampler_proposes_take_their_time(tmp_path: Path) -> None:
    plan = TeachingPlan(3600, PACES, Curriculum(Teaching(2.0, 2), planned(2520)))
    store = TrialStore(tmp_path / "journal", "search")
    for decisions in ({BASE: FRESH}, {BASE: STUDENT}, {BASE: ORIGINAL}):
        store.enqueue(decisions, {ROUND: 1})
    seconds = []
    for _ in range(3):
        with store.trial() as trial:
            trial.suggest_categorical(BASE, (ORIGINAL, STUDENT, FRESH))
            seconds.append(lesson_s(plan, trial))
            store.finish(trial, TrialOutcome(None))
    assert seconds == [pytest.approx(3 * 630), pytest.approx(6 * 700_000 * 1.35 * 1.2e-3), 0]


def _space() -> Space:
    return Space(fresh=FreshSpace(planned(0.7 * 3600)))


def test_what_is_there_already_is_tried_before_anybody_is_taught(tmp_path: Path) -> None:
    """The demo's own student takes a minute to try; a lesson takes what is left of a budget of minutes."""
    folder = str(tiny.folder(tmp_path))
    some = replace(_space(), adopted=(Adopt(folder),))
    assert [decisions["base"] for decisions in some.first()][:2] == [folder, FRESH]


def test_a_fresh_student_has_the_vocabulary_that_its_lessons_were_planned_for() -> None:
    """On all 262,144 tokens of an original one lesson took hours where an hour was the budget."""
    decisions = next(d for d in _space().first() if d["base"] == FRESH)
    assert "trim" not in decisions, "nothing to decide"
    for untrimmed in ({}, {"trim": False}):
        recipe = _space().recipe(FixedTrial(decisions | untrimmed))
        assert isinstance(recipe.steps[0], Trim)


def test_a_fresh_student_is_trimmed_begun_taught_and_rounded() -> None:
    decisions = next(d for d in _space().first() if d["base"] == FRESH)
    first, second = (_space().recipe(Chosen(decisions, **{ROUND: n})) for n in range(2))
    assert [type(step).__name__ for step in second.steps] == ["Trim", "Student", "Distil", "Distil", "Quantize"]
    assert second.steps[:3] == first.steps[:3], "so that the first lesson is found made"
    assert second.name != first.name
    assert not out_of_order(second.steps)
    assert from_toml(to_toml(second), "here") == second
    lessons = [step for step in second.steps if isinstance(step, Distil)]
    assert lessons[1].epochs == pytest.approx(RATE * lessons[0].epochs, rel=0.02)
    assert {lesson.kind for lesson in lessons} == {"labels"}


@pytest.mark.parametrize("opened", [True, False], ids=["", "it can only be run"])
@pytest.mark.parametrize("knows_more", [False, True])
def test_the_original_is_heard_where_it_knows_more(knows_more: bool, opened: bool, tmp_path: Path) -> None:
    space = replace(_space(), opened=opened)
    store = TrialStore(tmp_path / "journal", "search")
    store.enqueue(next(d for d in space.first() if d["base"] == FRESH))
    with store.trial() as trial:
        recipe = space.recipe(trial)
        trial.set_user_attr(RECIPE, recipe.name)
        store.finish(trial, TrialOutcome(-3.0, 0.2))
    curriculum = Curriculum(None, planned(0.7 * 3600), asked=0.4)
    enqueue_next_rounds(store, curriculum, Budget(seconds=3600), {recipe.name: knows_more}.__getitem__)
    with store.trial() as trial:
        taught = space.recipe(trial)
        assert trial.user_attrs[ROUND] == 1
        assert trial.user_attrs.get(ASKED, 0.0) == (0.4 if knows_more else 0.0)
    lesson = [step for step in taught.steps if isinstance(step, Distil)][-1]
    assert (lesson.kind, lesson.asked) == (("logits", 0.4) if knows_more else ("labels", 1.0))
    assert ("40% asked" in taught.name) == knows_more
