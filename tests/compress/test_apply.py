"""What the first steps made is found again, exactly, by a recipe that begins alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from halfwatt.compress.apply import StepCache, apply_recipe
from halfwatt.compress.base import Step, StepContext
from halfwatt.compress.distil import Distil
from halfwatt.compress.prune import Prune
from halfwatt.compress.quantize.quantize import Quantize
from halfwatt.compress.recipe import Recipe
from halfwatt.compress.vocabulary_trim import Trim
from halfwatt.models.chat_model import ChatModel, load
from tests.support import taught_students as taught
from tests.support.tiny_models import Arch

DIALOGUES = tuple(taught.dialogues())
STUDENT: tuple[Step, ...] = (Trim(0.999), Prune(drop=1), Distil(epochs=2, lr=2e-3, batch_tokens=1024))


@pytest.fixture(params=["llama", "gpt2"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> ChatModel:
    arch: Arch = request.param
    return load(taught.folder(tmp_path, arch, DIALOGUES, taught.School(steps=10)))


def forbid(monkeypatch: pytest.MonkeyPatch, *steps: type[Step]) -> None:
    def never(*_: Any) -> ChatModel:
        raise AssertionError("it was made before")

    for step in steps:
        monkeypatch.setattr(step, "apply", never)


def test_a_recipe_that_begins_alike_makes_only_what_is_new(
    model: ChatModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = StepContext(DIALOGUES, cache=tmp_path / "work")
    first = apply_recipe(model, Recipe("student", STUDENT), context)
    forbid(monkeypatch, Trim, Prune, Distil)
    second = apply_recipe(model, Recipe("int8 student", (*STUDENT, Quantize(8))), context)
    again = apply_recipe(model, Recipe("student", STUDENT), context)

    numbers = first.network.state_dict(), again.network.state_dict()
    assert numbers[0].keys() == numbers[1].keys()
    assert all(torch.equal(numbers[0][name], numbers[1][name]) for name in numbers[0])
    same = ("lineage", "spent", "generation", "sha256", "source", "kept", "context")
    assert all(getattr(first, name) == getattr(again, name) for name in same)
    assert [again.tokenizer.scored(d).ids for d in DIALOGUES] == [first.tokenizer.scored(d).ids for d in DIALOGUES]
    assert second.spent == first.spent
    assert second.lineage[:-1] == first.lineage
    assert second.grid
    assert not list((tmp_path / "work").glob("*/checkpoints")), "checkpoints are room for what is kept"


def test_other_dialogues_or_another_field_are_made_anew(
    model: ChatModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = StepContext(DIALOGUES, cache=tmp_path / "work")
    apply_recipe(model, Recipe("student", STUDENT[:2]), context)
    forbid(monkeypatch, Prune)
    for steps, dialogues in ((STUDENT[:2], DIALOGUES[1:]), ((STUDENT[0], Prune(ffn=0.5)), DIALOGUES)):
        with pytest.raises(AssertionError, match="made before"):
            apply_recipe(model, Recipe("student", steps), StepContext(dialogues, cache=tmp_path / "work"))


def test_half_of_a_folder_is_not_taken_for_a_model(model: ChatModel, tmp_path: Path) -> None:
    cache = StepCache(tmp_path / "step")
    assert cache.read(model) is None
    cache.write(model)
    assert cache.read(model) is not None
    (tmp_path / "step" / "model" / "halfwatt.json").unlink()  # as if it had not been written yet
    assert cache.read(model) is None


def test_two_processes_that_make_the_same_keep_one(model: ChatModel, tmp_path: Path) -> None:
    cache, record = StepCache(tmp_path / "step"), tmp_path / "step" / "model" / "halfwatt.json"
    cache.write(model)
    before = record.stat().st_ino
    cache.write(model)
    assert record.stat().st_ino == before
