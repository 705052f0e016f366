"""The search on problems whose answer is known: found within the budget, and never what breaks the constraint."""

from __future__ import annotations

import math
import time
from binascii import crc32
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import FixedTrial

from halfwatt.compress.base import Step
from halfwatt.compress.ngram_draft import Draft
from halfwatt.compress.quantize.mixed_precision import Mixed
from halfwatt.compress.quantize.quantize import Quantize
from halfwatt.compress.recipe import Recipe
from halfwatt.core.errors import EnvironmentFault
from halfwatt.core.settings import Budget
from halfwatt.search.exploration import explore
from halfwatt.search.search_space import BASE, ORIGINAL, Space
from halfwatt.search.trial_store import TrialOutcome, TrialStore


def planted(recipe: Recipe) -> TrialOutcome:
    """Fewest bytes win; int4 by rounding loses too much, GPTQ does not; a draft of 4 is the best; 0.3 nats may go."""
    numbers = next(step for step in recipe.steps if isinstance(step, Quantize | Mixed))
    draft = [step.order for step in recipe.steps if isinstance(step, Draft)]
    if isinstance(numbers, Mixed):
        size, lost = 4.5 + 4 * numbers.extra, 0.25 - numbers.extra / 4 + 0.2 * (numbers.method == "rtn")
    else:
        size = {4: 4.5, 8: 8.5}[numbers.bits] + (1.0 if numbers.bits == 4 and numbers.head_bits else 0.0)
        lost = 0.0 if numbers.bits == 8 else 0.5 if numbers.method == "rtn" else 0.32 - 0.1 * bool(numbers.head_bits)
    trimmed = any(step.name == "trim" for step in recipe.steps)
    cost = size * (0.95 if trimmed else 1.0) * (1 - 0.1 * (3 - abs(draft[0] - 4)) if draft else 1.0)
    return TrialOutcome(math.log(cost), lost + 0.02 * trimmed - 0.3)


def optimum() -> float:
    """By hand: mixed with the least extra, by GPTQ, not trimmed beyond the constraint, with a draft of 4."""
    return math.log((4.5 + 4 * 0.05) * 0.95 * 0.7)


def test_the_planted_optimum_is_found_within_the_budget(tmp_path: Path) -> None:
    study = TrialStore(tmp_path / "journal", "planted")
    explore(study, Space().recipe, planted, Budget(trials=80))
    best = study.best()
    assert best is not None
    assert best.value is not None
    assert best.value < optimum() + 0.08
    assert planted(Space().recipe(FixedTrial(best.params))).violation <= 0


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), allowed=st.floats(-1, 1))
def test_what_breaks_the_constraint_is_never_the_best(
    seed: int, allowed: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    def assess(recipe: Recipe) -> TrialOutcome:
        value = crc32(recipe.name.encode()) % 1000 / 1000
        return TrialOutcome(value, allowed - value) if value > 0.1 else TrialOutcome(None)

    study = TrialStore(tmp_path_factory.mktemp("study") / "journal", "random", seed)
    tried = explore(study, Space().recipe, assess, Budget(trials=12))
    able = [f.cost for f in map(assess, tried) if f.cost is not None and f.violation <= 0]
    best = study.best()
    assert (best is None) == (not able)
    assert best is None or best.value == min(able)


def test_what_was_tried_is_not_assessed_again_not_even_by_another_sitting(tmp_path: Path) -> None:
    seen: list[str] = []

    def assess(recipe: Recipe) -> TrialOutcome:
        seen.append(recipe.name)
        return planted(recipe)

    space = Space(trims=False, learned=False)  # three recipes and no more
    first = explore(TrialStore(tmp_path / "journal", "a"), space.recipe, assess, Budget(trials=2))
    every = explore(TrialStore(tmp_path / "journal", "a"), space.recipe, assess, Budget(trials=1000))
    assert len(seen) == len(set(seen)) == len(every) == 3
    assert {r.name for r in first} <= {r.name for r in every}
    assert all(isinstance(step, Quantize) and step.method == "rtn" for r in every for step in r.steps)


def test_what_could_not_be_made_is_told_too_and_is_a_trial(tmp_path: Path) -> None:
    """A search whose students all ran out of memory says so; it does not end as if it had tried nothing."""
    space = Space(trims=False, learned=False)
    study = TrialStore(tmp_path / "journal", "a")
    tried = explore(study, space.recipe, lambda _: TrialOutcome(None), Budget(trials=2))
    assert len(tried) == 2
    assert study.best() is None


def test_what_there_is_no_time_for_is_neither_tried_nor_told(tmp_path: Path) -> None:
    """With a quarter of an hour left a search began a lesson of three hours."""
    space, study = Space(trims=False, learned=False), TrialStore(tmp_path / "journal", "a")
    study.enqueue({BASE: ORIGINAL, "numbers": "int4", "quantize.head_bits": None})
    budget = Budget(trials=1000)
    quick = explore(study, space.recipe, planted, budget, fits=lambda trial: trial.params["numbers"] != "int4")
    assert [recipe.steps for recipe in quick] == [(Quantize(4),), (Quantize(8),)], "what was asked for, what fits"
    assert len(explore(study, space.recipe, planted, budget)) == 3, "with more time it is tried"


def test_first_come_the_decisions_that_were_asked_for(tmp_path: Path) -> None:
    study = TrialStore(tmp_path / "journal", "a")
    wanted = {BASE: ORIGINAL, "numbers": "int4", "quantize.head_bits": 8}
    for _ in range(2):
        study.enqueue(wanted)
    tried: list[tuple[Step, ...]] = []

    def assess(recipe: Recipe) -> TrialOutcome:
        tried.append(recipe.steps)
        return planted(recipe)

    explore(study, Space(trims=False, learned=False).recipe, assess, Budget(trials=3))
    assert tried[0] == (Quantize(4, 8),)


def test_a_fault_fails_the_trial_and_is_not_swallowed(tmp_path: Path) -> None:
    study = TrialStore(tmp_path / "journal", "a")

    def broken(_: Recipe) -> TrialOutcome:
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        explore(study, Space().recipe, broken, Budget(trials=3))
    assert study.completed() == []
    assert len(explore(study, Space().recipe, planted, Budget(trials=2))) == 2


def test_joules_and_seconds_end_it_too(tmp_path: Path) -> None:
    counter = iter(range(0, 10_000, 10))
    study = TrialStore(tmp_path / "journal", "a", joules=lambda: float(next(counter)))
    explore(study, Space().recipe, planted, Budget(joules=35))
    assert study.joules() == 40, "what was begun within the budget is finished"
    assert study.seconds() > 0
    with_time = study.seconds()
    assert len(explore(study, Space().recipe, planted, Budget(seconds=with_time / 2))) == len(study.completed())


def test_a_recipe_is_the_same_for_the_same_decisions() -> None:
    class Fixed:
        user_attrs: ClassVar[dict[str, Any]] = {}

        def suggest_categorical(self, name: str, choices: Any, /) -> Any:
            return choices[0]

        def suggest_float(self, name: str, low: float, high: float, /, *, log: bool = False) -> float:
            return low

    a, b = Space().recipe(Fixed()), Space().recipe(Fixed())
    assert a == b
    assert a.name == "original, trim 0.999, int8, draft 3"


def test_a_search_ends_where_another_trial_would_not_be_repaid(tmp_path: Path) -> None:
    seen: list[str] = []

    def assess(recipe: Recipe) -> TrialOutcome:
        seen.append(recipe.name)
        return planted(recipe)

    explore(
        TrialStore(tmp_path / "journal", "a"), Space().recipe, assess, Budget(trials=20), go_on=lambda: len(seen) < 3
    )
    assert len(seen) == 3


@pytest.mark.parametrize("error", [KeyboardInterrupt(), EnvironmentFault("no space left")])
def test_what_was_interrupted_is_tried_again(tmp_path: Path, error: BaseException) -> None:
    """The decisions that were asked for first stay the first, though their trial came to nothing."""
    store = TrialStore(tmp_path / "journal", "a")
    store.enqueue({"numbers": "int4", "quantize.head_bits": 8})
    space, tried = Space(trims=False, learned=False), list[tuple[Step, ...]]()

    def interrupted(_: Recipe) -> TrialOutcome:
        raise error

    def assess(recipe: Recipe) -> TrialOutcome:
        tried.append(recipe.steps)
        return planted(recipe)

    with pytest.raises(type(error)):
        explore(store, space.recipe, interrupted, Budget(trials=1))
    explore(TrialStore(tmp_path / "journal", "a"), space.recipe, assess, Budget(trials=1))
    assert tried == [(Quantize(4, 8),)]


@pytest.mark.parametrize("sittings", [1, 4])
def test_what_was_begun_within_the_budget_is_ended_after_it(tmp_path: Path, sittings: int) -> None:
    """Killed while its best candidate was judged, a search would else go without it."""
    assessed: list[str] = []

    def too_long(recipe: Recipe) -> TrialOutcome:
        assessed.append(recipe.name)
        time.sleep(0.3)
        raise KeyboardInterrupt

    budget = Budget(seconds=0.2)
    for _ in range(sittings):
        with pytest.raises(KeyboardInterrupt):
            explore(TrialStore(tmp_path / "journal", "a"), Space().recipe, too_long, budget)
    again = explore(TrialStore(tmp_path / "journal", "a"), Space().recipe, planted, budget)
    assert [recipe.name for recipe in again] == (assessed[:1] if sittings < 4 else []), "but whoever ends it each time"
    assert len(set(assessed)) == 1
    assert explore(TrialStore(tmp_path / "journal", "a"), Space().recipe, planted, budget) == again, "and no more"
