"""GPTQ against its definition, and through a whole network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from halfwatt.compress.base import StepContext
from halfwatt.compress.quantize.gptq import (
    GptqSettings,
    HeadStatistics,
    Walk,
    gptq,
    inverse_factor,
    own_hessian,
    round_head,
    round_weight,
)
from halfwatt.compress.quantize.quantize import Quantize
from halfwatt.compress.training.batches import Predictor, collate, encode_rows, in_batches
from halfwatt.compress.training.losses import forward_kl
from halfwatt.core.errors import BadInput
from halfwatt.core.settings import RunSettings
from halfwatt.dialogues.dialogue import Dialogue, Message
from halfwatt.models.chat_model import load
from halfwatt.models.grid import GROUP, GridTensor, dequantize, quantize, round_to
from tests.support import taught_students as taught
from tests.support import tiny_models as tiny

ARCHS: tuple[tiny.Arch, ...] = ("llama", "gpt2", "qwen2")


def correlated(tokens: int = 400, columns: int = 64) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(tokens, 8) @ torch.randn(8, columns) + 0.3 * torch.randn(tokens, columns)


def loss(weight: torch.Tensor, rounded: torch.Tensor, x: torch.Tensor) -> float:
    return float(((weight - rounded) @ x.T).square().sum())


def calibration_dialogues(count: int) -> tuple[Dialogue, ...]:
    base = tiny.dialogues()[:3]
    return tuple(
        Dialogue(f"{d.id}-{i}", (Message(d.messages[0].role, f"{d.messages[0].content} {i}"), *d.messages[1:]))
        for i in range(count)
        for d in base
    )


def test_the_factor_is_that_of_the_damped_inverse() -> None:
    x = correlated()
    hessian = 2 * x.T @ x / len(x)
    upper = inverse_factor(hessian, 0.01)
    assert upper is not None
    damped = hessian + 0.01 * hessian.diagonal().mean() * torch.eye(64)
    assert torch.allclose(upper.T @ upper @ damped, torch.eye(64), atol=1e-3)
    assert torch.equal(upper, upper.triu())


@pytest.mark.parametrize("bits", [4, 8])
def test_it_loses_less_of_the_outputs_than_rounding_each_weight_alone(bits: int) -> None:
    x, weight = correlated(), torch.randn(48, 64)
    hessian = 2 * x.T @ x / len(x)
    factor = inverse_factor(hessian, 0.01)
    assert factor is not None
    result, before = gptq(weight, hessian, factor, bits)  # type: ignore[arg-type]
    alone = quantize(weight, bits, "mse")  # type: ignore[arg-type]
    assert loss(weight, dequantize(result), x) < 0.6 * loss(weight, dequantize(alone), x)
    at_last = round_to(before.reshape(-1, GROUP), result.scale.reshape(-1), result.bits)
    assert torch.equal(at_last.reshape(48, 64).to(torch.int8), result.q)


def test_without_correlation_it_is_rounding_to_nearest() -> None:
    weight, hessian = torch.randn(16, 64), torch.eye(64)
    factor = inverse_factor(hessian, 0.01)
    assert factor is not None
    assert torch.equal(gptq(weight, hessian, factor, 4)[0].q, quantize(weight, 4, "mse").q)


def test_columns_that_were_never_active_are_rounded_and_do_no_harm() -> None:
    x = correlated()
    x[:, 10:20] = 0
    hessian, weight = 2 * x.T @ x / len(x), torch.randn(8, 64)
    factor = inverse_factor(hessian, 0.01)
    assert factor is not None
    result = dequantize(gptq(weight, hessian, factor, 8)[0])
    assert (weight - result)[:, 10:20].abs().max() < 0.05


def skewed_head() -> tuple[torch.Tensor, torch.Tensor]:
    """A head's weight, and states of four kinds, each in directions and with likely tokens of its own."""
    torch.manual_seed(0)
    weight, directions = torch.randn(80, 64), torch.randn(4, 8, 64)
    tokens = torch.randint(0, 80, (3000,))
    return weight, 0.1 * weight[tokens] + 0.2 * (torch.randn(3000, 1, 8) @ directions[tokens % 4]).squeeze(1)


@pytest.mark.parametrize("settings", [GptqSettings(4), GptqSettings(4, sweeps=8)], ids=repr)
def test_a_head_whose_rows_look_at_their_own_tokens_says_the_same_more_exactly(settings: GptqSettings) -> None:
    weight, states = skewed_head()
    head = HeadStatistics.of(weight, states)
    alike, own = round_weight(weight, head.hessian, settings), round_head(weight, head, settings)
    assert alike is not None
    assert own is not None

    def apart(quantized: GridTensor) -> float:
        return float(forward_kl(states @ weight.T, states @ dequantize(quantized).T).mean())

    assert apart(own[0]) < 0.8 * apart(alike[0])
    at_last = round_to(own[1].reshape(-1, GROUP), own[0].scale.reshape(-1), 4)
    assert torch.equal(at_last.reshape(weight.shape).to(torch.int8), own[0].q)


def test_a_rows_own_hessian_is_the_softmaxs_curvature() -> None:
    """d2 NLL / dw_v dw_v^T, by automatic differentiation."""
    weight, states = torch.randn(6, 32), torch.randn(9, 32)

    def nll(row: torch.Tensor) -> torch.Tensor:
        logits = states @ torch.cat([row[None], weight[1:]]).T
        return logits.logsumexp(1).sum()  # of any label: what is linear in the row has no curvature

    curvature = torch.func.hessian(nll)(weight[0])
    p = (states @ weight.T).softmax(1)[:, 0]
    total = float((p * (1 - p)).sum())
    result = own_hessian(states, p, torch.zeros(32, 32)) * (total + 0.1)
    assert torch.allclose(result, curvature, atol=1e-5)


def test_nothing_seen_or_not_finite_gives_no_factor() -> None:
    assert inverse_factor(torch.zeros(32, 32), 0.01) is None
    assert inverse_factor(torch.full((32, 32), float("nan")), 0.01) is None
    assert round_weight(torch.randn(4, 32), torch.zeros(32, 32), GptqSettings(4)) is None


@pytest.mark.parametrize("arch", ARCHS)
def test_the_walk_is_the_networks_own_forward_pass(arch: tiny.Arch, tmp_path: Path) -> None:
    model = load(tiny.folder(tmp_path, arch))
    batches = in_batches(calibration_dialogues(4), model.tokenizer, 512)
    walk = Walk(model.network, batches)
    for block in walk.blocks:
        walk.advance(block)
    result = walk.final(model.network)
    batch = collate(encode_rows(calibration_dialogues(4), model.tokenizer, 512))
    with torch.no_grad():
        states = model.network.base_model(input_ids=batch.ids).last_hidden_state[:, :-1][batch.reply[:, 1:]]
    assert result.shape == states.shape
    assert torch.allclose(result.T @ result, states.T @ states, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("arch", ARCHS)
def test_a_network_loses_less_of_what_it_says(arch: tiny.Arch, tmp_path: Path) -> None:
    model = load(tiny.folder(tmp_path, arch, tied=False))
    context = StepContext(dialogues=calibration_dialogues(12))
    batches = in_batches(calibration_dialogues(12), model.tokenizer, 512)

    def apart(step: Quantize) -> float:
        quantized = step.apply(model, context)
        with torch.no_grad():
            result = [
                (quantized.network(input_ids=b.ids).logits - model.network(input_ids=b.ids).logits)[b.predicting]
                for b in batches
            ]
        return float(torch.cat(result).square().mean())

    gptq_step = Quantize(4, method="gptq")
    assert apart(gptq_step) < apart(Quantize(4))
    quantized = gptq_step.apply(model, context)
    assert all(torch.equal(dequantize(g), w) for n, g in quantized.grid.items() for w in [_rows(quantized, n)])
    assert quantized.lineage[-1].startswith("GPTQ: int4")


def test_a_model_that_has_learned_something_loses_much_less(tmp_path: Path) -> None:
    model = load(taught.folder(tmp_path, "llama", taught.dialogues()))
    context = StepContext(dialogues=tuple(taught.dialogues()))
    batch = collate(encode_rows(taught.dialogues()[::2], model.tokenizer, 512))

    def apart(step: Quantize) -> float:
        with torch.no_grad():
            expected = Predictor(model.network)(batch.ids, batch.reply)
            result = Predictor(step.apply(model, context).network)(batch.ids, batch.reply)
        return float(forward_kl(expected, result).mean())

    assert apart(Quantize(4, method="gptq")) < 0.7 * apart(Quantize(4))


def test_going_downhill_after_it_loses_less_still(tmp_path: Path) -> None:
    model = load(taught.folder(tmp_path, "llama", taught.dialogues()))
    batch = collate(encode_rows(taught.dialogues()[::2], model.tokenizer, 512))

    def apart(sweeps: int, seed: int) -> float:
        calibration_dialogues = tuple(taught.dialogues()[5 * seed : 5 * seed + 45])
        quantized = Quantize(4, method="gptq", sweeps=sweeps).apply(model, StepContext(dialogues=calibration_dialogues))
        with torch.no_grad():
            expected = Predictor(model.network)(batch.ids, batch.reply)
            return float(forward_kl(expected, Predictor(quantized.network)(batch.ids, batch.reply)).mean())

    assert sum(apart(8, s) for s in range(4)) < 0.95 * sum(apart(0, s) for s in range(4))


def test_too_few_different_dialogues_are_refused(tmp_path: Path) -> None:
    model = load(tiny.folder(tmp_path))
    same = tuple(replace(tiny.dialogues()[0], id=str(i)) for i in range(64))
    with pytest.raises(BadInput, match=r"8 or more different dialogues .*found: 1"):
        Quantize(4, method="gptq").apply(model, StepContext(dialogues=same))


def _rows(model: object, name: str) -> torch.Tensor:
    from halfwatt.models.weights import weights

    return next(w.rows() for w in weights(model.network) if w.name == name)  # type: ignore[attr-defined]


def test_what_it_calibrates_on_is_drawn_from_all_kinds_of_dialogues() -> None:
    """A user's file may be sorted by kind: its first dialogues speak for one kind alone."""
    given = calibration_dialogues(100)
    context = StepContext(dialogues=given, settings=RunSettings(seed=1))
    drawn = context.some(100)
    assert len(set(drawn)) == 100
    assert 30 <= len(set(drawn) & set(given[150:])) <= 70
    assert drawn == context.some(100) != StepContext(dialogues=given, settings=RunSettings(seed=2)).some(100)
    assert context.some(300) == given
