"""The Python face, as the README shows it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import halfwatt as hw
from halfwatt.api.inputs import splits
from halfwatt.core.errors import BadInput
from halfwatt.core.settings import RunSettings
from halfwatt.models import grid
from tests.support import taught_students as taught
from tests.support import tiny_models as tiny


def test_load_quantize_save_as_in_the_readme(tmp_path: Path) -> None:
    model = hw.load(tiny.folder(tmp_path, "llama"))
    small = hw.quantize(model, bits=8)
    small.save(str(tmp_path / "small"))
    again = hw.load(tmp_path / "small")
    weight = again.network.model.layers[0].mlp.down_proj.weight.detach().float()
    assert not torch.equal(weight, model.network.model.layers[0].mlp.down_proj.weight.detach().float())
    on_grid = grid.dequantize(grid.quantize(weight, 8))
    np.testing.assert_allclose(on_grid, weight, atol=1e-6)


def test_quantize_fit_save_as_the_project_began(tmp_path: Path) -> None:
    told = taught.dialogues()
    model = hw.load(taught.folder(tmp_path, "llama", told))
    small = hw.quantize(model, bits=4)
    rounded = small.model.network.model.layers[0].mlp.down_proj.weight.detach().clone()
    spent = small.fit(taught.chats(tmp_path, told), epochs=1, lr=1e-3)
    assert spent.tokens > 0
    small.save(tmp_path / "small")
    weight = hw.load(tmp_path / "small").network.model.layers[0].mlp.down_proj.weight.detach().float()
    assert not torch.equal(weight, rounded)
    integers = small.model.grid["model.layers.0.mlp.down_proj.weight"]
    assert torch.equal(weight, grid.dequantize(integers))


def test_the_demo_is_loaded_by_its_name() -> None:
    assert hw.load("demo").sha256 == hw.load(hw.demo.path()).sha256


def test_the_front_door_has_what_it_lists_and_nothing_else() -> None:
    assert all(callable(getattr(hw, name)) for name in ("load", "quantize", "measure", "compare", "optimize", "plan"))
    assert (hw.demo.path() / "config.json").exists()
    with pytest.raises(AttributeError, match="optimise"):
        hw.optimise  # noqa: B018


@pytest.mark.parametrize("name", ["demo", Path("demo")])
def test_the_demos_dialogues_serve_any_model_by_name(name: str | Path) -> None:
    own = splits("smollm2.gguf", name, RunSettings())
    assert {split: part.sha256 for split, part in own.items()} == {
        split: part.sha256 for split, part in splits("demo", None, RunSettings()).items()
    }
    with pytest.raises(BadInput, match="no dialogues for smollm2"):
        splits("smollm2.gguf", None, RunSettings())
