"""Balancing against its definition, and in whole networks."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from halfwatt.compress.base import StepContext
from halfwatt.compress.quantize.column_balancing import Handover, balance, expected_error, handed_over, handovers
from halfwatt.compress.quantize.gptq import gptq, inverse_factor
from halfwatt.compress.quantize.quantize import Quantize
from halfwatt.compress.training.batches import Predictor, Watched, collate, rows
from halfwatt.models.architectures.registry import architecture_of
from halfwatt.models.chat_model import load
from halfwatt.models.grid import GROUP, dequantize
from halfwatt.models.weights import put
from tests.compress.quantize.test_gptq import correlated, loss, told
from tests.support import tiny_models as tiny

ARCHS: tuple[tiny.Arch, ...] = ("llama", "gpt2", "qwen2")


def with_outliers(rows: int = 48, columns: int = 64) -> torch.Tensor:
    torch.manual_seed(1)
    weight = torch.randn(rows, columns)
    weight[:, 5] *= 12
    weight[:, 40] *= 8
    return weight


def factor_of(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    hessian = 2 * x.T @ x / len(x)
    factor = inverse_factor(hessian, 0.01)
    assert factor is not None
    return hessian, factor


def test_the_error_is_that_of_its_definition() -> None:
    torch.manual_seed(0)
    weight, matters = torch.randn(3, 2 * GROUP), torch.rand(3)
    left, c = torch.rand(2 * GROUP), torch.rand(2 * GROUP) + 0.5
    wanted = 0.0
    for r in range(3):
        for group in (range(GROUP), range(GROUP, 2 * GROUP)):
            step = max(float(weight[r, j] * c[j]) ** 2 for j in group)
            wanted += float(matters[r]) * step * sum(float(left[j] / c[j] ** 2) for j in group)
    assert expected_error(weight, matters, left, c) == pytest.approx(wanted, rel=1e-4)


def test_outlier_columns_are_made_smaller_and_gptq_then_loses_less() -> None:
    x, weight = correlated(), with_outliers()
    hessian, factor = factor_of(x)
    c = balance(weight, torch.ones(len(weight)), factor)
    assert c[5] < 0.3 * c.median()
    assert c[40] < 0.3 * c.median()
    scaled_hessian, scaled_factor = factor_of(x / c)
    plain = loss(weight, dequantize(gptq(weight, hessian, factor, 4)[0]), x)
    balanced = loss(weight, dequantize(gptq(weight * c, scaled_hessian, scaled_factor, 4)[0]) / c, x)
    assert balanced < 0.5 * plain


def test_where_nothing_sticks_out_little_is_changed() -> None:
    torch.manual_seed(0)
    _, factor = factor_of(torch.randn(4000, 64))
    weight = torch.randn(512, 64)
    c = balance(weight, torch.ones(512), factor)
    assert c.max() / c.min() < 1.5


def test_a_column_without_weights_is_left_alone() -> None:
    _, factor = factor_of(correlated())
    weight = with_outliers()
    weight[:, 7] = 0
    assert torch.equal(balance(weight, torch.ones(len(weight)), factor), torch.ones(64))


def test_inputs_that_say_nothing_change_nothing() -> None:
    reader = torch.nn.Linear(64, 16)
    before = copy.deepcopy(reader.weight)
    c = handed_over(Handover(torch.nn.LayerNorm(64), (reader,)), torch.zeros(64, 64))
    assert torch.equal(c, torch.ones(64))
    assert torch.equal(reader.weight, before)


@pytest.mark.parametrize("arch", ARCHS)
def test_a_network_says_the_same_whatever_is_handed_over(arch: tiny.Arch, tmp_path: Path) -> None:
    model = load(tiny.folder(tmp_path, arch, tied=False))
    network: Any = copy.deepcopy(model.network).float()  # type: ignore[no-untyped-call]
    batch = collate(rows(told(4), model.tokenizer, 512), model.tokenizer.pad_id)
    with torch.no_grad():
        wanted, outputs = Watched(network)(batch.ids, batch.reply)
        architecture = architecture_of(network)
        found = [h for block in architecture.blocks(network) for h in handovers(network, block)]
        found.append(Handover(architecture.final_norm(network), (network.get_output_embeddings(),)))
        for k, handover in enumerate(found):
            own: Any = handover.giver
            generator = torch.Generator().manual_seed(k)
            handover.scale(torch.rand(len(own.weight), generator=generator) + 0.5)
        said, same = Watched(network)(batch.ids, batch.reply)
    for ours, theirs in zip((said, *same), (wanted, *outputs), strict=True):  # what training on the grid compares
        assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))


@pytest.mark.parametrize("arch", ARCHS)
def test_what_is_rounded_is_the_balanced_network(arch: tiny.Arch, tmp_path: Path) -> None:
    model = load(tiny.folder(tmp_path, arch, tied=False))
    made, settled = Quantize(8, method="gptq").rounded(model, StepContext(dialogues=told(12)))
    network: Any = made.network
    norms = [(n, p) for n, p in network.named_parameters() if n.endswith(("norm.weight", "ln_f.weight"))]
    own = dict(model.network.named_parameters())
    assert any(not torch.equal(p, own[n].float()) for n, p in norms), "nothing was handed over"
    assert set(settled) == set(made.grid)
    batch = collate(rows(told(4), model.tokenizer, 512), model.tokenizer.pad_id)
    with torch.no_grad():
        wanted = Predictor(model.network)(batch.ids, batch.reply)
        put(network, {name: s.unrounded for name, s in settled.items()})
        said = Predictor(network)(batch.ids, batch.reply)
    assert torch.allclose(said, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))
