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
from torch import nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel

from halfwatt.compress.base import Stage, StepContext
from halfwatt.compress.quantize.quantize import Method, Quantize
from halfwatt.compress.training import losses
from halfwatt.compress.training.batches import Batch, Predictor, Watched, rows
from halfwatt.compress.training.loop import Group, Objective, Settings, train
from halfwatt.models.chat_model import ChatModel
from halfwatt.models.grid import GROUP, Bits, GridTensor, limits, round_to
from halfwatt.models.weights import fill, put, weights


class _OnGrid(torch.autograd.Function):
    """The three formulas above. w: float32 [groups, 32]; s: float32 [groups]; -> [groups, 32]."""

    @staticmethod
    def forward(ctx: Any, w: torch.Tensor, s: torch.Tensor, bits: Bits) -> torch.Tensor:
        stored = s.to(torch.float16)
        q = round_to(w, stored, bits)
        ctx.save_for_backward(w, stored, q)
        ctx.bits = bits
        return q * stored.float()[:, None]

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        w, stored, q = ctx.saved_tensors
        low, high = limits(ctx.bits)
        s = stored.float()[:, None]
        x = torch.where(s == 0, 0.0, w / s)
        inside = (x >= low) & (x <= high)
        per_scale = torch.where(inside, q - x, q) * grad
        return grad * inside, per_scale.sum(1) / math.sqrt(GROUP * high), None


def on_grid(weight: torch.Tensor, scale: torch.Tensor, bits: Bits) -> torch.Tensor:
    """The weight as the grid gives it back, with gradients for both.

    weight: float32 [rows, columns]; scale: float32 [rows, columns / 32], rounded to fp16 where it is used
    """
    groups, scales = weight.reshape(-1, GROUP), scale.reshape(-1)
    flat: torch.Tensor = _OnGrid.apply(groups, scales, bits)  # type: ignore[no-untyped-call]
    return flat.reshape(weight.shape)


class FakeGrid(nn.Module):
    """A parametrization: what a module sees instead of its own weight."""

    def __init__(self, start: GridTensor, *, transposed: bool) -> None:
        super().__init__()
        self.bits, self.transposed = start.bits, transposed
        self.scale = nn.Parameter(start.scale.float())

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The rounded weight."""
        if self.transposed:
            return on_grid(weight.T, self.scale, self.bits).T
        return on_grid(weight, self.scale, self.bits)

    def integers(self, weight: torch.Tensor) -> GridTensor:
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
    made: dict[str, FakeGrid] = {}
    for module in list(network.modules()):
        weight = matrices.get(id(getattr(module, "weight", None)))
        if weight is None or weight.name not in grid:
            continue
        if weight.name not in made:
            made[weight.name] = FakeGrid(grid[weight.name], transposed=weight.transposed)
        parametrize.register_parametrization(module, "weight", made[weight.name])
    return made


def detach(network: nn.Module, made: Mapping[str, FakeGrid]) -> dict[str, GridTensor]:
    """Take the weights off `attach`'s rounding again, in place, and read their integers."""
    for module in list(network.modules()):
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)
    parameters = dict(network.named_parameters())
    return {name: fake.integers(parameters[name]) for name, fake in made.items()}


RATE = 2e-5  # the best of three at 16M parameters (docs/log.md); QAD's paper has 3e-5 to 1e-4 up to 0.5B, 1e-5 at 1B
_FLOOR = 0.01  # the last rate, as a share of the highest: weights near the edge of a step must come to rest


# --- the step ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TrainOnGrid:
    """Quantization-aware training, distilling from the model's own unrounded self.

    bits, head_bits, embedding_bits:  as in `Quantize`
    start:         the integers to begin with, as `Quantize`'s method: "gptq" starts at half the divergence of "rtn"
    loss:          "self" = KL divergence to the unrounded model, "labels" = cross-entropy of the human replies
    states:        how much the error of the blocks' outputs counts beside the KL divergence
    epochs:        passes over the dialogues; about 400 steps are enough
    lr:            a faster one moves weights further than the loss can tell; five times it ends above where GPTQ began
    scale_lr:      of the scales, as a share of ``lr``: they are a hundred times smaller than what they scale moves
    batch_tokens:  of a step; the less noise in its gradient, the nearer a weight comes to rest to where it should
    longest:       tokens of a dialogue that are learned from
    """

    bits: Bits = 4
    head_bits: Bits | None = None
    embedding_bits: Bits = 8
    start: Method = "gptq"
    loss: Literal["self", "labels"] = "self"
    states: float = 0.3
    epochs: float = 1.0
    lr: float = RATE
    scale_lr: float = 0.1
    batch_tokens: int = 4096
    longest: int = 512

    name: ClassVar[str] = "train on the grid"
    stage: ClassVar[Stage] = Stage.NUMERICS
    source: ClassVar[str] = "LSQ, arXiv 1902.08153; QAD, arXiv 2601.20088"

    def problems(self, model: ChatModel) -> list[str]:
        """Those of `Quantize`, and values that cannot train."""
        found = self._rounding.problems(model)
        if self.epochs <= 0 or self.lr <= 0 or self.scale_lr < 0 or self.states < 0:
            found.append("epochs and lr must be above 0, scale_lr and states not below")
        return found

    def apply(self, model: ChatModel, context: StepContext) -> ChatModel:
        """Round, train, read off the integers.

        Raises:
            BadInput: no dialogues to train on. TrainingDiverged: see `train`.
        """
        start, settled = self._rounding.rounded(model, context)
        network = start.network  # this call's own
        # how near a weight is to its next integer is known to training
        put(network, {name: s.before for name, s in settled.items()})
        fakes = attach(network, start.grid)
        history = train(
            Predictor(network) if self.loss == "labels" else Watched(network),
            self._objective(model, context),
            rows(context.dialogues, model.tokenizer, min(self.longest, model.context)),
            self._settings(context),
            context.bench(self.name, model.tokenizer.pad_id),
            self._groups(network, fakes),
        )
        network.to("cpu")  # type: ignore[arg-type]
        grid = detach(network, fakes)
        fill(network, grid)
        network.eval()  # type: ignore[no-untyped-call]
        spent = (*model.spent, history.spent)
        lineage = (*model.lineage, f"{self._rounding.summary}; {self.summary(history.steps)}")
        return replace(start, network=network, grid=grid, lineage=lineage, spent=spent)

    def _settings(self, context: StepContext) -> Settings:
        how = {"floor": _FLOOR, "weight_decay": 0.0}
        return Settings(self.lr, self.epochs, self.batch_tokens, **how, precision=context.precision, seed=context.seed)

    def summary(self, steps: int) -> str:
        """For the lineage."""
        return f"trained on the grid for {steps} steps of {self.batch_tokens} tokens, loss: {self.loss}, lr {self.lr:g}"

    @property
    def _rounding(self) -> Quantize:
        """No sweeps: few steps leave the minimum that descent ends in (log.md)."""
        return Quantize(self.bits, self.head_bits, self.embedding_bits, method=self.start, sweeps=0)

    def _groups(self, network: nn.Module, fakes: Mapping[str, FakeGrid]) -> tuple[Group, ...]:
        scales = tuple(fake.scale for fake in fakes.values())
        own = {id(s) for s in scales}
        return Group(tuple(p for p in network.parameters() if id(p) not in own)), Group(scales, self.scale_lr)

    def _objective(self, model: ChatModel, context: StepContext) -> Objective:
        if self.loss == "labels":
            return lambda model, batch: losses.label_nll(model(batch.ids, batch.reply), batch.labels)
        teacher = Watched(copy.deepcopy(model.network)).to(context.device).eval().requires_grad_(False)

        def to_itself(model: Callable[..., Any], batch: Batch) -> torch.Tensor:
            with torch.no_grad():
                wanted, outputs = teacher(batch.ids, batch.reply)
            with parametrize.cached():
                said, own = model(batch.ids, batch.reply)
                nats = losses.forward_kl(wanted, said)
                for theirs, ours in zip(outputs, own, strict=True):
                    nats = nats + self.states * losses.state_error(theirs, ours)
            return nats

        return to_itself
