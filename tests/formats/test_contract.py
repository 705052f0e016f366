"""The contract of formats, over every format: a new one adds its row here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from halfwatt.compress.base import StepContext
from halfwatt.compress.quantize.quantize import Quantize
from halfwatt.core.errors import BadInput, ModelError
from halfwatt.core.settings import Access, RuntimeName
from halfwatt.formats.gguf import Gguf
from halfwatt.formats.registry import by_name, format_of, formats, load_model
from halfwatt.formats.transformers_folder import TransformersFolder
from halfwatt.models.chat_model import ChatModel, load
from halfwatt.models.weights import weights
from tests.contracts import formats as contract
from tests.contracts.formats import FormatRow
from tests.support import tiny_models as tiny


def in_gguf(folder: Path, model: ChatModel) -> dict[str, torch.Tensor]:
    """llama.cpp's own arithmetic of blocks, rows in the network's order."""
    config, own = model.network.config, model.architecture
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[own.gguf_architecture(config).upper()], config.num_hidden_layers)
    tensors = {t.name: t for t in gguf.GGUFReader(folder / "model.gguf").tensors}
    stored = {}
    for weight in weights(model.network):
        module = weight.name.removesuffix(".weight")
        tensor = tensors[f"{names.get_name(module)}.weight"]
        rows = torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
        order = own.gguf_row_order(config, module, rows.shape[0])
        stored[weight.name] = rows if order is None else torch.empty_like(rows).index_copy_(0, order, rows)
    return stored


def in_safetensors(folder: Path, model: ChatModel) -> dict[str, torch.Tensor]:
    tensors = load_file(folder / "model.safetensors")
    matrices = {w.name: w for w in weights(model.network)}
    return {name: (tensors[name].T if w.transposed else tensors[name]).float() for name, w in matrices.items()}


def unwritable_as_gguf(model: ChatModel) -> tuple[ChatModel, tuple[str, ...]]:
    network: Any = tiny.network("llama")
    network.config.hidden_act = "gelu"
    with torch.no_grad():
        network.model.layers[0].mlp.up_proj.weight[3, 4] = float("nan")
    return replace(model, network=network, grid={}), ("SiLU", "not finite: model.layers.0.mlp.up_proj.weight")


def unwritable_as_folder(model: ChatModel) -> tuple[ChatModel, tuple[str, ...]]:
    network: Any = tiny.network("llama").to(torch.float8_e5m2)  # type: ignore[arg-type]
    return replace(model, network=network, grid={}), ("its weights are torch.float8_e5m2",)


ROWS = (
    FormatRow(Gguf(), in_gguf, unwritable_as_gguf),
    FormatRow(TransformersFolder(), in_safetensors, unwritable_as_folder),
)
MODELS: dict[str, Callable[[ChatModel], ChatModel]] = {
    "as loaded": lambda model: model,
    "int8": lambda model: Quantize(8).apply(model, StepContext()),
    "int4": lambda model: Quantize(4, 8).apply(model, StepContext()),
}


@pytest.mark.parametrize("check", contract.CONTRACT, ids=lambda check: check.__name__)
@pytest.mark.parametrize("made", MODELS)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.form.name)
def test_contract(row: FormatRow, made: str, check: Callable[..., None], tmp_path: Path) -> None:
    arch: tiny.Arch = "gpt2" if made == "int8" else "llama"
    base = load(tiny.folder(tmp_path / "model", arch, tied=False, dtype=torch.float16))
    (tmp_path / "work").mkdir()
    check(row, MODELS[made](base), tmp_path / "work")


# --- the list


def test_every_format_has_its_row_and_a_name_and_runtime_of_its_own() -> None:
    assert [type(row.form) for row in ROWS] == [type(form) for form in formats()]
    assert len({form.name for form in formats()}) == len(formats())
    assert {form.runtime for form in formats()} == {*get_args(RuntimeName)} - {"cascade"}  # of two artifacts


def test_each_is_known_by_its_name() -> None:
    assert by_name("gguf") == Gguf()
    assert by_name("transformers_folder", "bf16") == TransformersFolder("bf16")
    with pytest.raises(BadInput, match=r"no such format \(found: ggux\); did you mean gguf\?"):
        by_name("ggux")


def test_a_path_is_of_one_format(tmp_path: Path) -> None:
    (tmp_path / "artifact").mkdir()
    (tmp_path / "artifact" / "model.gguf").touch()
    (tmp_path / "weights.safetensors").touch()
    sources: dict[str | Path, str] = {
        tmp_path / "model.gguf": "gguf",
        tmp_path / "artifact": "gguf",
        tiny.folder(tmp_path): "transformers_folder",
        "org/name": "transformers_folder",
    }
    assert {source: format_of(source).name for source in sources} == sources
    with pytest.raises(ModelError, match=r"weights\.safetensors is a file of no known format; give"):
        format_of(tmp_path / "weights.safetensors")


def test_a_model_is_loaded_by_its_name(tmp_path: Path) -> None:
    folder = tiny.folder(tmp_path)
    assert load_model(str(folder), Access(dtype="bf16")).network.dtype == torch.bfloat16
    assert load_model("demo", Access()).source.name != "demo"
    with pytest.raises(ModelError, match="there is no file"):
        load_model(str(tmp_path / "model.gguf"), Access())
