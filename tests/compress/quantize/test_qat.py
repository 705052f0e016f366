"""Training on the grid: its gradients, and that what was trained is what is exported."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch

from halfwatt.compress.base import StepContext
from halfwatt.compress.quantize.qat import TrainOnGrid, attach, detach, on_grid
from halfwatt.compress.quantize.quantize import Quantize
from halfwatt.compress.training.batches import Predictor, collate, encode_rows
from halfwatt.compress.training.losses import forward_kl
from halfwatt.evaluate import parity
from halfwatt.formats.gguf import Gguf
from halfwatt.models.chat_model import ChatModel, load
from halfwatt.models.grid import Bits, dequantize, limits, quantize
from halfwatt.models.weights import weights
from halfwatt.runtimes.base import OperatingPoint
from halfwatt.runtimes.llamacpp import LlamaCpp
from tests.support import taught_students as taught
from tests.support import tiny_models as tiny

ARCHS: tuple[tiny.Arch, ...] = ("llama", "gpt2", "qwen2")


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> ChatModel:
    return load(taught.folder(tmp_path_factory.mktemp("qat"), "llama", taught.dialogues()))


@pytest.mark.parametrize("bits", [4, 8])
def test_the_forward_pass_is_the_grids_own_rounding(bits: Bits) -> None:
    torch.manual_seed(0)
    weight = torch.randn(6, 64)
    grid = quantize(weight, bits, "mse")
    assert torch.equal(on_grid(weight, grid.scale.float(), bits), dequantize(grid))


@pytest.mark.parametrize("bits", [4, 8])
def test_gradients_by_the_formula(bits: Bits) -> None:
    torch.manual_seed(0)
    low, high = limits(bits)
    weight = torch.randn(2, 32, requires_grad=True)
    scale = torch.tensor([[2.0 / high], [0.5 / high]]).half().float().requires_grad_()  # the second clips a lot
    upstream = torch.randn(2, 32)
    (on_grid(weight, scale, bits) * upstream).sum().backward()  # type: ignore[no-untyped-call]
    x = (weight / scale).detach()
    inside = (x >= low) & (x <= high)
    assert 0 < inside.float().mean() < 1
    assert torch.equal(weight.grad, upstream * inside)  # type: ignore[arg-type]
    part = torch.where(inside, x.round() - x, x.clamp(low, high)) * upstream
    assert torch.allclose(scale.grad, part.sum(1, keepdim=True) / (32 * high) ** 0.5, rtol=1e-4)  # type: ignore[arg-type]


def test_where_it_clips_the_scales_gradient_is_a_slope() -> None:
    """Outside the grid w_hat = s * end: there, and only there, rounding is flat and finite differences are right."""
    weight, scale = torch.full((1, 32), 9.0), torch.tensor([[0.5]], requires_grad=True)
    on_grid(weight, scale, 4).sum().backward()  # type: ignore[no-untyped-call]
    step = 2.0**-6
    up, down = (on_grid(weight, scale.detach() + d, 4).sum() for d in (step, -step))
    assert scale.grad is not None
    assert scale.grad.item() * (32 * 7) ** 0.5 == pytest.approx(float(up - down) / (2 * step), rel=1e-3)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("step", [Quantize(8), Quantize(4), Quantize(4, 8)], ids=repr)
def test_what_is_seen_while_training_is_what_is_read_off(arch: tiny.Arch, step: Quantize, tmp_path: Path) -> None:
    model = load(tiny.folder(tmp_path, arch))
    start = step.apply(model, StepContext())
    network = step.float_copy(model)
    before = {n: p.detach().clone() for n, p in network.named_parameters()}
    fakes = attach(network, start.grid)
    ids = torch.arange(40)[None]
    with torch.no_grad():
        seen = network(input_ids=ids).logits
        assert torch.allclose(seen, start.network(input_ids=ids).logits, atol=1e-5)
    grid = detach(network, fakes)
    assert grid.keys() == start.grid.keys()
    assert all(torch.equal(grid[n].q, g.q) and torch.equal(grid[n].scale, g.scale) for n, g in start.grid.items())
    assert {n: p.shape for n, p in network.named_parameters()} == {n: p.shape for n, p in before.items()}
    assert all(torch.equal(p, before[n]) for n, p in network.named_parameters())
    tied = network.get_input_embeddings().weight is network.get_output_embeddings().weight  # type: ignore[no-untyped-call]
    assert tied == ((step.head_bits or step.bits) == step.embedding_bits)


def test_it_closes_most_of_the_gap_to_its_unrounded_self(learned: ChatModel) -> None:
    context = StepContext(dialogues=tuple(taught.dialogues()))
    batch = collate(encode_rows(taught.dialogues()[::2], learned.tokenizer, 512))

    def apart(quantized: ChatModel) -> float:
        with torch.no_grad():
            expected = Predictor(learned.network)(batch.ids, batch.reply)
            return float(forward_kl(expected, Predictor(quantized.network)(batch.ids, batch.reply)).mean())

    trained = TrainOnGrid(4, epochs=8, batch_tokens=1024).apply(learned, context)
    assert apart(trained) < 0.2 * apart(Quantize(4).apply(learned, context))
    assert trained.spent[-1].tokens > 0
    assert "trained on the grid" in trained.lineage[-1]
    on = {w.name: w.rows() for w in weights(trained.network)}
    assert all(torch.equal(dequantize(g), on[n]) for n, g in trained.grid.items())


@pytest.mark.parametrize("start", ["rtn", "gptq"])
def test_training_begins_at_the_integers_of_the_method(start: Literal["rtn", "gptq"], learned: ChatModel) -> None:
    context = StepContext(dialogues=tuple(taught.dialogues()))
    begun = TrainOnGrid(4, start=start, epochs=0.1, lr=1e-9, batch_tokens=1024).apply(learned, context)
    rounded = Quantize(4, method=start, sweeps=0).apply(learned, context)
    assert all(torch.equal(g.q, rounded.grid[name].q) for name, g in begun.grid.items())


def test_the_export_says_what_training_saw(learned: ChatModel, tmp_path: Path) -> None:
    context = StepContext(dialogues=tuple(taught.dialogues()))
    trained = TrainOnGrid(4, epochs=1, lr=1e-3, batch_tokens=1024).apply(learned, context)
    artifact = Gguf().write(trained, tmp_path / "artifact")
    with LlamaCpp().open(artifact, OperatingPoint(threads=1)) as session:
        report = parity.check(trained, artifact, session, taught.dialogues()[:8])
    assert report.problems == ()
    assert report.kl_mean < 1e-4


def test_labels_teach_it_too_and_the_original_is_not_touched(learned: ChatModel) -> None:
    before = [p.detach().clone() for p in learned.network.parameters()]
    context = StepContext(dialogues=tuple(taught.dialogues()))
    TrainOnGrid(8, loss="labels", epochs=0.5, batch_tokens=1024).apply(learned, context)
    assert all(torch.equal(a, b) for a, b in zip(before, learned.network.parameters(), strict=True))
    assert TrainOnGrid(epochs=0).problems(learned)
    assert replace(TrainOnGrid(), lr=-1.0).problems(learned)
