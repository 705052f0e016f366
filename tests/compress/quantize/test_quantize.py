"""The quantize step: what goes on the grid, what does not, and that the model given stays as it was."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from halfwatt.compress.base import Stage, Step, StepContext
from halfwatt.compress.quantize.quantize import Quantize
from halfwatt.core.errors import ModelError
from halfwatt.models.chat_model import ChatModel, load
from halfwatt.models.grid import dequantize, quantize
from halfwatt.models.weights import weights
from tests.support import tiny_models as tiny

every_arch = pytest.mark.parametrize("arch", tiny.ARCHS)


@pytest.fixture
def llama(tmp_path: Path) -> ChatModel:
    return load(tiny.folder(tmp_path, "llama", dtype=torch.bfloat16))


def test_it_is_a_step() -> None:
    step: Step = Quantize()
    assert (step.name, step.stage) == ("quantize", Stage.NUMERICS)
    assert repr(Quantize(8)) != repr(Quantize(8, scale_search="absmax"))  # a recipe's fingerprint is made of it


@every_arch
@pytest.mark.parametrize("tied", [True, False])
def test_every_matrix_is_on_the_grid_and_the_network_holds_it(arch: tiny.Arch, tied: bool, tmp_path: Path) -> None:
    base = load(tiny.folder(tmp_path, arch, tied=tied))
    result = Quantize(4, head_bits=8).apply(base, StepContext())
    matrices = {name for name, p in base.network.named_parameters() if p.ndim == 2}
    positions = {"transformer.wpe.weight"} if arch == "gpt2" else set()
    assert set(result.grid) == matrices - positions
    assert {k.tensor for k in result.kept} == positions
    parameters = dict(result.network.named_parameters())
    for name, grid in result.grid.items():
        stored_across = arch == "gpt2" and "c_" in name
        held = parameters[name].T if stored_across else parameters[name]
        assert torch.equal(held, dequantize(grid)), name
        head = "embed" in name or "wte" in name or "lm_head" in name
        assert grid.bits == (8 if head else 4)
    assert result.lineage == (*base.lineage, "round to nearest: int4, int8 head, groups of 32, mse scales")


@every_arch
def test_rows_are_outputs(arch: tiny.Arch, tmp_path: Path) -> None:
    """GPT-2 stores its weights [in, out]; the grid's groups must run along the inputs of one output."""
    base = load(tiny.folder(tmp_path, arch))
    name = "transformer.h.0.mlp.c_fc.weight" if arch == "gpt2" else "model.layers.0.mlp.up_proj.weight"
    weight = dict(base.network.named_parameters())[name].detach()
    grid = Quantize(8, scale_search="absmax").apply(base, StepContext()).grid[name]
    expected = quantize(weight.T if arch == "gpt2" else weight, 8)
    assert grid.q.shape[1] == 64  # the width, which is what goes in
    assert torch.equal(grid.q, expected.q)


def test_the_model_given_is_not_touched(llama: ChatModel) -> None:
    before = copy.deepcopy(llama.network.state_dict())
    result = Quantize().apply(llama, StepContext())
    assert all(torch.equal(before[k], v) for k, v in llama.network.state_dict().items())
    assert (llama.grid, llama.kept, len(llama.lineage)) == ({}, (), 1)
    assert {p.dtype for p in result.network.parameters()} == {torch.float32}  # bf16 cannot hold s * q
    assert not result.network.training


@pytest.mark.parametrize("step", [Quantize(8), Quantize(4, head_bits=8), Quantize(4, embedding_bits=4)], ids=repr)
def test_tied_embeddings_stay_tied_at_the_same_bits(llama: ChatModel, step: Quantize) -> None:
    result = step.apply(llama, StepContext())
    assert result.network.lm_head.weight is result.network.model.embed_tokens.weight
    assert "lm_head.weight" not in result.grid
    names = [w.name for w in weights(result.network)]
    assert len(names) == len(set(names)) == len(result.grid)


@every_arch
def test_an_embedding_at_other_bits_than_the_head_gets_weights_of_its_own(arch: tiny.Arch, tmp_path: Path) -> None:
    base = load(tiny.folder(tmp_path, arch))
    result = Quantize(4).apply(base, StepContext())
    name = "transformer.wte.weight" if arch == "gpt2" else "model.embed_tokens.weight"
    assert (result.grid["lm_head.weight"].bits, result.grid[name].bits) == (4, 8)
    assert result.network.config.tie_word_embeddings is False
    assert base.network.config.tie_word_embeddings is True
    kept = next(k for k in result.kept if k.tensor == name)
    assert (kept.kept_as, "one row a token" in kept.reason) == ("int8", True)
    assert result.lineage[-1] == "round to nearest: int4, int8 embedding, groups of 32, mse scales"


def test_roles_are_told_apart(tmp_path: Path) -> None:
    roles = {w.name: w.role for w in weights(load(tiny.folder(tmp_path, "gpt2", tied=False)).network)}
    assert (roles.pop("transformer.wte.weight"), roles.pop("lm_head.weight")) == ("embedding", "head")
    assert roles.pop("transformer.wpe.weight") == "positions"
    assert set(roles.values()) == {"body"}
    assert len(roles) == 8


def test_odd_rows_are_kept_with_the_reason(llama: ChatModel) -> None:
    config = llama.network.config.__class__.from_dict({**llama.network.config.to_dict(), "intermediate_size": 80})
    network: Any = type(llama.network)(config)
    odd = replace(llama, network=network.eval())
    result = Quantize(8).apply(odd, StepContext())
    assert {k.tensor for k in result.kept} == {f"model.layers.{i}.mlp.down_proj.weight" for i in range(2)}
    assert "rows of 80" in result.kept[0].reason
    name = result.kept[0].tensor
    assert torch.equal(result.network.get_parameter(name), odd.network.get_parameter(name))


def test_problems_are_named_before_any_work(llama: ChatModel) -> None:
    assert Quantize().problems(llama) == []
    tied_head = Quantize(4, int8=("lm_head.weight",))
    assert tied_head.problems(llama) == []
    assert tied_head.apply(llama, StepContext()).grid["lm_head.weight"].bits == 8
    assert Quantize(4, int8=("lm_haed.weight",)).problems(llama) == [
        "int8 names lm_haed.weight, which is no weight of this model"
    ]
    with torch.no_grad():
        llama.network.model.layers[1].mlp.up_proj.weight[0, 0] = float("nan")
    assert Quantize().problems(llama) == ["model.layers.1.mlp.up_proj.weight holds values that are not finite"]
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.up_proj\.weight: .*nan at row 0, column 0"):
        Quantize().apply(llama, StepContext())


def test_twice_is_refused(llama: ChatModel) -> None:
    result = Quantize(8).apply(llama, StepContext())
    assert "integer grid already" in Quantize(4).problems(result)[0]


def test_a_network_without_room_for_groups_is_refused(llama: ChatModel) -> None:
    narrow = {"hidden_size": 24, "intermediate_size": 40, "head_dim": 6}
    config = llama.network.config.__class__.from_dict({**llama.network.config.to_dict(), **narrow})
    network: Any = type(llama.network)(config)
    result = replace(llama, network=network.eval())
    assert Quantize().problems(result) == ["no weight has rows that divide into groups of 32"]


def test_more_bits_and_searched_scales_lose_less(llama: ChatModel) -> None:
    def loss(step: Quantize) -> float:
        result = step.apply(llama, StepContext())
        pairs = zip(llama.network.parameters(), result.network.parameters(), strict=True)
        return sum(float(((a.float() - b).detach() ** 2).sum()) for a, b in pairs)

    int8, int4 = loss(Quantize(8)), loss(Quantize(4, embedding_bits=4))
    plain = loss(Quantize(4, embedding_bits=4, scale_search="absmax"))
    assert int8 < int4 / 100
    assert int4 < 0.95 * plain
