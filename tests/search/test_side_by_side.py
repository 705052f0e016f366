"""Students at the same time: as many as there are cores for, each kept for its trial, their time counted once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from halfwatt.compress.distil import Distil
from halfwatt.compress.quantize.quantize import Quantize
from halfwatt.compress.recipe import Recipe
from halfwatt.compress.search_ranges import Chooser
from halfwatt.search import side_by_side
from halfwatt.search.side_by_side import in_lanes, teach_side_by_side
from halfwatt.search.stages import BuildOrder, BuildOutcome
from halfwatt.search.trial_store import RECIPE, TrialOutcome, TrialStore
from tests.search.conftest import Ground

LESSONS = (1.0, 2.0, 3.0)


def taught(choose: Chooser) -> Recipe:
    epochs = choose.suggest_categorical("epochs", (*LESSONS, None))
    steps = (Quantize(8),) if epochs is None else (Distil(kind="labels", epochs=epochs), Quantize(8))
    return Recipe(f"epochs {epochs}", steps)


def test_so_many_at_a_time_and_all_of_them() -> None:
    running, most, done = list[int](), list[int](), list[int]()

    def task(number: int) -> Callable[[], object]:
        def work() -> None:
            running.append(number)
            most.append(len(running))
            time.sleep(0.05)
            running.remove(number)
            done.append(number)

        return work

    in_lanes([task(n) for n in range(5)], 2)
    assert sorted(done) == list(range(5))
    assert max(most) == 2


def test_an_error_is_told_once_the_others_have_ended() -> None:
    done = threading.Event()

    def slow() -> None:
        time.sleep(0.1)
        done.set()

    def fails() -> None:
        raise ValueError("no room")

    with pytest.raises(ValueError, match="no room"):
        in_lanes([slow, fails], 2)
    assert done.is_set()


def test_students_are_built_ahead_of_their_trials(
    ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two at a time on eight cores, with four threads each; what learns nothing, or is not decided yet, waits."""
    monkeypatch.setattr(side_by_side, "cores", lambda: 8)
    spans = dict[str, tuple[float, float]]()

    def scripted(order: BuildOrder) -> BuildOutcome:
        start_s = time.monotonic()
        time.sleep(0.2)
        spans[order.name] = start_s, time.monotonic()
        return BuildOutcome(ground.b1.artifact)

    lab = ground.lab(tmp_path, {"build": scripted})
    lab = replace(lab, job=replace(lab.job, name="the model"))
    store = TrialStore(tmp_path / "journal", "search")
    decisions: list[dict[str, Any]] = [{"epochs": epochs} for epochs in (*LESSONS[:2], None)]
    for each in (*decisions, {"other": 1}):
        store.enqueue(each)
    teach_side_by_side(lab, store, taught)
    assert set(spans) == {"epochs 1.0", "epochs 2.0"}
    (first, second) = spans.values()
    assert max(first[0], second[0]) < min(first[1], second[1]), "at the same time"
    assert 0.2 <= store.seconds() < 0.4, "the wall's, not the sum"
    with store.trial() as trial:
        recipe = taught(trial)
        trial.set_user_attr(RECIPE, recipe.name)
        store.finish(trial, TrialOutcome(-1.0))
    assert store.lasted_s(store.completed()[0]) == pytest.approx(store.seconds() / 2, abs=0.1)
    built = len(spans)
    teach_side_by_side(lab, store, taught)
    assert len(spans) == built, "one is left, which its own trial builds"


@pytest.mark.parametrize("few", [{"cores": 7}, {"name": None}])
def test_few_cores_teach_one_after_the_other(
    few: dict[str, Any], ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(side_by_side, "cores", lambda: few.get("cores", 8))
    lab = ground.lab(tmp_path, {"build": lambda _: pytest.fail("its own trial builds it")})
    lab = replace(lab, job=replace(lab.job, name=few.get("name", "the model")))
    store = TrialStore(tmp_path / "journal", "search")
    for epochs in LESSONS:
        store.enqueue({"epochs": epochs})
    teach_side_by_side(lab, store, taught)
    assert store.seconds() == 0
