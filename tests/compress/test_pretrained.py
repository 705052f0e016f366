"""A model that was made before: taken as it is, with how it was made and what that took."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from halfwatt.compress.apply import apply_recipe
from halfwatt.compress.base import StepContext
from halfwatt.compress.distil import Distil
from halfwatt.compress.pretrained import Adopt
from halfwatt.compress.prune import Prune
from halfwatt.compress.quantize.quantize import Quantize
from halfwatt.compress.recipe import Recipe, read_recipe
from halfwatt.compress.vocabulary_trim import Trim
from halfwatt.core.errors import BadInput, ModelError
from halfwatt.meters.cost import Cost
from halfwatt.models.chat_model import load, outline
from halfwatt.search import predict
from tests.support import tiny_models as tiny


@pytest.fixture
def student(tmp_path: Path) -> Path:
    """A trimmed and pruned model with a price, as `halfwatt distil` would write it."""
    model = load(tiny.folder(tmp_path / "original", "llama"))
    result = apply_recipe(model, Recipe("", (Trim(0.9), Prune(ffn=0.7, drop=1))), StepContext(tiny.dialogues()))
    replace(result, spent=(Cost(tokens=100, cpu_s=5.0),)).save(tmp_path / "student")
    return tmp_path / "student"


def original(tmp_path: Path) -> Path:
    return next(p.parent for p in (tmp_path / "original").rglob("config.json"))


def test_it_comes_with_its_lineage_and_its_price(student: Path, tmp_path: Path) -> None:
    model = load(original(tmp_path))
    result = apply_recipe(model, Recipe("", (Adopt(str(student)), Quantize(8))), StepContext())
    kept = load(student)
    assert result.spent == (Cost(tokens=100, cpu_s=5.0),)
    assert result.lineage[:-1] == kept.lineage
    assert any("blocks" in line for line in result.lineage)
    assert result.sha256 == model.sha256, "what it is compared with"
    assert result.tokenizer.vocab_size == kept.tokenizer.vocab_size < model.tokenizer.vocab_size
    theirs, own = kept.network.state_dict(), result.network.state_dict()
    name = "lm_head.weight"
    assert torch.allclose(own[name], theirs[name], atol=float(theirs[name].abs().max()) / 100)


def test_a_recipe_is_one_of_this_very_model(student: Path, tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text(f'[[step]]\nuse = "adopt"\nfolder = "{student}"\n[[step]]\nuse = "quantize"\nbits = 8\n')
    first = read_recipe(file)
    assert first.steps[0] == Adopt(str(student))
    changed = load(student)
    with torch.no_grad():
        next(changed.network.parameters()).add_(1)
    changed.save(tmp_path / "other")
    student.rename(tmp_path / "before")
    (tmp_path / "other").rename(student)
    assert read_recipe(file).fingerprint("m") != first.fingerprint("m")
    pinned = first.steps[0]
    assert isinstance(pinned, Adopt)
    with pytest.raises(BadInput, match="holds another model than the recipe says"):
        Adopt(str(student), pinned.sha256)


def test_what_cannot_be_adopted_is_refused(student: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nowhere"):
        Adopt(str(tmp_path / "nowhere"))
    gpt2 = load(tiny.folder(tmp_path / "other", "gpt2"))
    with pytest.raises(ModelError, match="is a LlamaForCausalLM, the model a GPT2LMHeadModel"):
        apply_recipe(gpt2, Recipe("", (Adopt(str(student)),)), StepContext())
    model = load(original(tmp_path))
    with pytest.raises(BadInput, match="same vocabulary"):
        apply_recipe(model, Recipe("", (Adopt(str(student)), Distil())), StepContext(tiny.dialogues()))


def test_a_plan_knows_its_sizes(student: Path, tmp_path: Path) -> None:
    recipe = Recipe("", (Adopt(str(student)), Quantize(4)))
    shape = predict.shape(outline(original(tmp_path)), recipe, ())
    assert shape == predict.shape(outline(student), Recipe("", (Quantize(4),)), ())


def test_a_record_that_is_none_is_named(student: Path) -> None:
    (student / "halfwatt.json").write_text(json.dumps({"lineage": 3}))
    with pytest.raises(ModelError, match=r"halfwatt\.json is not what halfwatt wrote"):
        load(student)
