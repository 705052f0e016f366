"""Training on the grid: the forward pass sees the rounded weights, the gradient reaches the real ones.

    w_hat = s q,   q = clamp(round(w / s), lowest, highest)                     the grid's own rounding, fp16 scale
    dL/dw     = dL/dw_hat  where w / s lies inside the grid, else 0             straight through (Bengio et al. 2013)
    dw_hat/ds = round(w / s) - w / s inside, the grid's end outside             LSQ, Esser et al., arXiv 1902.08153

One scale belongs to 32 weights, so LSQ's factor 1 / sqrt(n highest) has n = 32. The loss is the KL divergence to the
model's own unrounded self (quantization-aware distillation, arXiv 2601.20088), which asks for nothing that the model
did not say before, and how far every block's output is from that self's (TinyBERT, arXiv 1909.10351): a token then says
`layers x width` numbers more, and fewer tokens do. "labels" is the cross-entropy of the human replies instead. After
training the integers are read off with the same rounding, so what was trained is what is exported.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel

from halfwatt.compress.base import Stage, Step, StepContext
from halfwatt.compress.quantize.quantize import Method, Quantize
from halfwatt.compress.training import losses
from halfwatt.compress.training.batches import Batch, Predictor, StatePredictor, encode_rows
from halfwatt.compress.training.loop import Group, Objective, TrainingSettings, learn_labels, train
from halfwatt.models.chat_model import ChatModel
from halfwatt.models.grid import GROUP, Bits, GridTensor, limits, round_to
from halfwatt.models.weights import fill, put, weights


class _OnGrid(torch.autograd.Function):
    """The three formulas above. w: float32 [groups, 32]; s: float32 [groups]; -> [groups, 32]."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, s: Tensor, bits: Bits) -> Tensor:
        stored = s.to(torch.float16)
        q = round_to(w, stored, bits)
        ctx.save_for_backward(w, stored, q)
        ctx.bits = bits
        return q * stored.float()[:, None]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        w, stored, q = ctx.saved_tensors
        low, high = limits(ctx.bits)
        s = stored.float()[:, None]
        x = torch.where(s == 0, 0.0, w / s)
        inside = (x >= low) & (x <= high)
        per_scale = torch.where(inside, q - x, q) * grad
        return grad * inside, per_scale.sum(1) / math.sqrt(GROUP * high), None


def on_grid(weight: Tensor, scale: Tensor, bits: Bits) -> Tensor:
    """The weight as the grid gives it back, with gradients for both.

    weight: float32 [rows, columns]; scale: float32 [rows, columns / 32], rounded to fp16 where it is used
    """
    flat: Tensor = _OnGrid.apply(weight.reshape(-1, GROUP), scale.reshape(-1), bits)  # type: ignore[no-untyped-call]
    return flat.reshape(weight.shape)


class FakeGrid(nn.Module):
    """A parametrization: what a module sees instead of its own weight."""

    def __init__(self, start: GridTensor, *, transposed: bool) -> None:
        super().__init__()
        self.bits, self.transposed = start.bits, transposed
        self.scale = nn.Parameter(start.scale.float())

    def forward(self, weight: Tensor) -> Tensor:
        values = on_grid(weight.T if self.transposed else weight, self.scale, self.bits)
        return values.T if self.transposed else values

    def integers(self, weight: Tensor) -> GridTensor:
        """What the forward pass used."""
        values = (weight.T if self.transposed else weight).detach().float()
        stored = self.scale.detach().to(torch.float16)
        q = round_to(values.reshape(-1, GROUP), stored.reshape(-1), self.bits)
        return GridTensor(q.reshape(values.shape).to(torch.int8), stored, self.bits)


def attach(network: PreTrainedModel, grid: Mapping[str, GridTensor]) -> dict[str, FakeGrid]:
    """Let every weight that ``grid`` names be seen rounded, in place; tied weights share their `FakeGrid`.

    Returns weight name -> its `FakeGrid`; `detach` undoes it.
    """
    matrices = {id(weight.parameter): weight for weight in weights(network)}
    fakes: dict[str, FakeGrid] = {}
    for module in list(network.modules()):
        weight = matrices.get(id(getattr(module, "weight", None)))
        if weight is not None and weight.name in grid:
            fake = FakeGrid(grid[weight.name], transposed=weight.transposed)
            parametrize.register_parametrization(module, "weight", fakes.setdefault(weight.name, fake))
    return fakes


def detach(network: nn.Module, fakes: Mapping[str, FakeGrid]) -> dict[str, GridTensor]:
    """Take the weights off `attach`'s rounding again, in place, and read their integers."""
    for module in list(network.modules()):
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)
    parameters = dict(network.named_parameters())
    return {name: fake.integers(parameters[name]) for name, fake in fakes.items()}


RATE = 2e-5  # the best of three at 16M parameters (docs/log.md); QAD's paper has 3e-5 to 1e-4 up to 0.5B, 1e-5 at 1B
_FLOOR = 0.01  # the last rate, as a share of the highest: weights near the edge of a step must come to rest


@dataclass(frozen=True, slots=True)
class TrainOnGrid(Step):
    """Quantization-aware training, distilling from the model's own unrounded self; the bits as in `Quantize`."""

    bits: Bits = 4
    head_bits: Bits | None = None
    embedding_bits: Bits = 8
    start: Method = "gptq"
    """The integers to begin with, as `Quantize`'s method: "gptq" starts at half the divergence of "rtn"."""
    loss: Literal["self", "labels"] = "self"
    """The KL divergence to the unrounded model ("self"), or the cross-entropy of the human replies ("labels")."""
    states: float = 0.3
    """How much the error of the blocks' outputs counts beside the KL divergence."""
    epochs: float = 1.0
    """Passes over the dialogues; about 400 steps are enough."""
    lr: float = RATE
    """A faster one moves weights further than the loss can tell; five times it ends above where GPTQ began."""
    scale_lr: float = 0.1
    """Of the scales, as a share of ``lr``: they are a hundred times smaller than what they scale moves."""
    batch_tokens: int = 4096
    """Of a step; the less noise in its gradient, the nearer a weight comes to rest to where it should."""
    longest: int = 512
    """Tokens of a dialogue that are learned from."""

    name: ClassVar[str] = "train on the grid"
    stage: ClassVar[Stage] = Stage.NUMERICS
    trains: ClassVar[bool] = True

    def problems(self, model: ChatModel) -> list[str]:
        problems = self._rounding.problems(model)
        if self.epochs <= 0 or self.lr <= 0 or self.scale_lr < 0 or self.states < 0:
            problems.append("epochs and lr must be above 0, scale_lr and states not below")
        return problems

    def apply(self, model: ChatModel, context: StepContext) -> ChatModel:
        """Round, train, read off the integers.

        Raises:
            BadInput: no dialogues to train on. TrainingDiverged: see `train`.
        """
        start, results = self._rounding.round_model(model, context)
        network = start.network  # this call's own
        # the weights before rounding: training knows how near each is to its next integer
        put(network, {name: weight.compensated for name, weight in results.items()})
        fakes = attach(network, start.grid)
        scales = tuple(fake.scale for fake in fakes.values())
        others = tuple(p for p in network.parameters() if all(p is not scale for scale in scales))
        history = train(
            Predictor(network) if self.loss == "labels" else StatePredictor(network),
            learn_labels if self.loss == "labels" else self._to_itself(model, context.device),
            encode_rows(
                context.dialogues, model.tokenizer, min(self.longest, model.context), context.settings.progress
            ),
            TrainingSettings(self.lr, self.epochs, self.batch_tokens, floor=_FLOOR, weight_decay=0.0),
            context,
            (Group(others), Group(scales, self.scale_lr)),
        )
        network.to("cpu")  # type: ignore[arg-type]
        grid = detach(network, fakes)
        fill(network, grid)
        network.eval()  # type: ignore[no-untyped-call]
        training = f"trained on the grid for {history.steps} steps of {self.batch_tokens} tokens"
        line = f"{self._rounding.summary}; {training}, loss: {self.loss}, lr {self.lr:g}"
        spent = (*model.spent, history.spent)
        return replace(start, network=network, grid=grid, lineage=(*model.lineage, line), spent=spent)

    @property
    def _rounding(self) -> Quantize:
        """No sweeps: few steps leave the minimum that descent ends in (log.md)."""
        return Quantize(self.bits, self.head_bits, self.embedding_bits, method=self.start, sweeps=0)

    def _to_itself(self, model: ChatModel, device: str) -> Objective:
        teacher = StatePredictor(copy.deepcopy(model.network)).to(device).eval().requires_grad_(False)

        def objective(student: Callable[..., Any], batch: Batch) -> Tensor:
            with torch.no_grad():
                targets, target_states = teacher(batch.ids, batch.reply)
            with parametrize.cached():
                logits, states = student(batch.ids, batch.reply)
                nats = losses.forward_kl(targets, logits)
                for theirs, ours in zip(target_states, states, strict=True):
                    nats = nats + self.states * losses.state_error(theirs, ours)
            return nats

        return objective
