"""Recipes from TOML: read whole, or every fault named at once."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from benchmarks import ladder as ladders
from benchmarks.ladder import narrow
from halfwatt.compress import recipe
from halfwatt.compress.distil import Distil
from halfwatt.compress.prune import Prune
from halfwatt.compress.quantize.qat import TrainOnGrid
from halfwatt.compress.quantize.quantize import Quantize
from halfwatt.compress.recipe import Recipe, default_recipes, out_of_order, read_recipe
from halfwatt.compress.registry import STEPS
from halfwatt.core.errors import BadInput


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    return path


def test_steps_in_order_with_their_fields(tmp_path: Path) -> None:
    text = '[[step]]\nuse = "prune"\nffn = 0.7\n[[step]]\nuse = "train-on-grid"\nbits = 4\nhead_bits = 8\nepochs = 2\n'
    result = read_recipe(written(tmp_path, text))
    assert result == Recipe("recipe", (Prune(ffn=0.7), TrainOnGrid(4, 8, epochs=2.0)))
    assert read_recipe(written(tmp_path, 'name = "a b"\n' + text)).slug == "a-b"


def test_every_fault_is_named_at_once(tmp_path: Path) -> None:
    text = 'colour = 1\n[[step]]\nuse = "prun"\n[[step]]\nuse = "distil"\ntemprature = 2\nepochs = "many"\n'
    with pytest.raises(BadInput) as fault:
        read_recipe(written(tmp_path, text))
    message = str(fault.value)
    assert "unknown entry 'colour'" in message
    assert "step 1: unknown step use = 'prun'; did you mean prune?" in message
    assert "step 2: distil has no 'temprature'; did you mean temperature?" in message
    assert "step 2: distil.epochs" in message
    assert fault.value.exit_code == 2
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "message"), [("[[step", "not TOML"), ("name = 'x'", "no \\[\\[step\\]\\]"), ("step = 3", "no")]
)
def test_what_is_no_recipe_is_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=message):
        read_recipe(written(tmp_path, text))
    with pytest.raises(BadInput, match="cannot be read"):
        read_recipe(tmp_path / "missing.toml")


def test_an_order_that_undoes_itself_is_refused_before_any_work(tmp_path: Path) -> None:
    text = '[[step]]\nuse = "quantize"\n[[step]]\nuse = "prune"\nffn = 0.5\n'
    with pytest.raises(BadInput, match="prune cannot come after quantize: the order is structure"):
        read_recipe(written(tmp_path, text))
    assert out_of_order([Prune(), Distil(), Quantize()]) == []
    assert out_of_order([Quantize(), TrainOnGrid()]) == [
        "a model is put on the grid once, not by quantize and train on the grid"
    ]
    assert all(not out_of_order(recipe.steps) for recipe in default_recipes())


def test_distilling_has_a_kind_of_its_own(tmp_path: Path) -> None:
    result = read_recipe(written(tmp_path, '[[step]]\nuse = "distil"\nkind = "labels"\n'))
    assert result.steps == (Distil("labels"),)


def test_the_page_names_every_step_and_field() -> None:
    page = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text()
    for name, step in STEPS.items():
        row = next(line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
        assert all(f"`{field.name}`" in row for field in dataclasses.fields(step))  # type: ignore[arg-type]


def test_the_page_prints_recipes_that_can_be_read(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text()
    first, winner = (read_recipe(written(tmp_path, text)) for text in re.findall(r"```toml\n(.*?)```", page, re.DOTALL))
    assert first.name == "narrow traffic"
    assert winner in narrow()  # what the ladder climbed


@pytest.mark.parametrize(
    "original", [*ladders.narrow(), *ladders.mix(), *ladders.post_training("narrow")], ids=lambda r: r.slug
)
def test_a_recipe_that_is_written_is_read_again(original: Recipe, tmp_path: Path) -> None:
    assert read_recipe(written(tmp_path, recipe.to_toml(original))) == original


def test_the_fingerprint_sees_what_was_learned_from() -> None:
    recipe = Recipe("x", (Distil(),))
    assert recipe.fingerprint("model") != recipe.fingerprint("model", "dialogues")
    assert recipe.fingerprint("model", "a") != recipe.fingerprint("model", "b")
