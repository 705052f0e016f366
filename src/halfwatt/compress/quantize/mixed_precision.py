"""Mixed int4 and int8: spend the bytes where a byte saves most.

    loss(choice) ~ sum over weights of KL(model || model with this weight alone on that grid)
    choice       = that of least loss among all that read no more than so many bytes

Weight by weight, only choices are kept that no other beats in bytes and loss both (Nemhauser and Ullmann 1969); weights
come in few sizes, so these are few, and the best is found exactly. A price of a byte (Shoham and Gersho 1988) finds
fewer: where one weight is a fifth of all, as a head can be, good choices lie between those that any price finds. That
losses add up is an assumption: good near the model, and only ever used to choose, never to judge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch

from halfwatt.compress.base import Stage, Step, StepContext
from halfwatt.compress.quantize.quantize import Method, Quantize, RoundedWeight
from halfwatt.compress.search_ranges import Between, OneOf
from halfwatt.compress.training import losses
from halfwatt.compress.training.batches import Batch, Predictor, calibration
from halfwatt.models.chat_model import ChatModel
from halfwatt.models.grid import BLOCK_BYTES, GROUP, GridTensor, dequantize, quantize
from halfwatt.models.weights import Weight, fits, put, weights


@dataclass(frozen=True, slots=True)
class Option:
    """One weight on either grid: bytes read a token, and what the model then loses, in nats a token."""

    name: str
    bytes_b: tuple[int, int]  # int4, int8
    nats: tuple[float, float]  # likewise


@dataclass(frozen=True, slots=True)
class Choice:
    """Which weights are at int8, and what that comes to."""

    bytes_b: int
    nats: float
    int8: tuple[str, ...]


def byte_budget(options: Sequence[Option], extra: float) -> float:
    """Bytes of all at int4, and a share ``extra`` of what int8 adds where it loses less."""
    gains = [o.bytes_b[1] - o.bytes_b[0] for o in options if o.nats[0] > o.nats[1]]
    return sum(o.bytes_b[0] for o in options) + extra * sum(gains)


def within(options: Sequence[Option], bytes_b: float) -> Choice:
    """The choice that loses least of all that read no more than ``bytes_b``; all int4 where even that reads more."""
    choices = [Choice(sum(o.bytes_b[0] for o in options), sum(o.nats[0] for o in options), ())]
    for option in options:
        more_b, more_nats = option.bytes_b[1] - option.bytes_b[0], option.nats[1] - option.nats[0]
        at_int8 = [Choice(c.bytes_b + more_b, c.nats + more_nats, (*c.int8, option.name)) for c in choices]
        choices = _unbeaten([*choices, *(c for c in at_int8 if c.bytes_b <= bytes_b)])
    return choices[-1]


def _unbeaten(choices: Sequence[Choice]) -> list[Choice]:
    """Bytes rising, nats falling."""
    best: list[Choice] = []
    for choice in sorted(choices, key=lambda c: (c.bytes_b, c.nats)):
        if not best or choice.nats < best[-1].nats:
            best.append(choice)
    return best


@torch.no_grad()
def sensitivities(
    network: Any, batches: Sequence[Batch], targets: Sequence[Weight], int4: Mapping[str, RoundedWeight]
) -> list[Option]:
    """Each weight on either grid alone, in place and put back: KL in nats a token from the network as it is.

    int4: what that grid makes of each, by name
    """
    predictor = Predictor(network).eval()
    logits = [predictor(b.ids, b.reply) for b in batches]

    def nats(weight: Weight, grid: GridTensor) -> float:
        weight.put(dequantize(grid))
        kl = [losses.forward_kl(own, predictor(b.ids, b.reply)) for own, b in zip(logits, batches, strict=True)]
        weight.put(int4[weight.name].original)
        return float(torch.cat(kl).mean())

    def option(weight: Weight) -> Option:
        own, groups = int4[weight.name], weight.parameter.numel() // GROUP
        lost = nats(weight, own.grid), nats(weight, quantize(own.original, 8, "mse"))
        return Option(weight.name, (groups * BLOCK_BYTES[4], groups * BLOCK_BYTES[8]), lost)

    return [option(weight) for weight in targets]


@dataclass(frozen=True, slots=True)
class Mixed(Step):
    """int4, with int8 where it saves most loss for its bytes.

    extra:   share of the bytes between all int4 and all int8 that may be spent
    method:  "rtn" or "gptq", as in `Quantize`; what int4 costs a weight is measured with it too
    """

    extra: Annotated[float, Between(0.05, 0.5)] = 0.1
    method: Annotated[Method, OneOf("rtn", "gptq")] = "rtn"

    name: ClassVar[str] = "mixed"
    stage: ClassVar[Stage] = Stage.NUMERICS

    def __str__(self) -> str:
        return f"mixed {self.extra:.3g}{' GPTQ' if self.method == 'gptq' else ''}"

    def problems(self, model: ChatModel, /) -> list[str]:
        problems = Quantize(4).problems(model)
        return problems if 0 <= self.extra <= 1 else [*problems, f"extra lies between 0 and 1, not {self.extra:g}"]

    def apply(self, model: ChatModel, context: StepContext, /) -> ChatModel:
        """Measure the sensitivities, choose, round.

        Raises:
            BadInput: no dialogues to measure them on.
        """
        options = self.options(model, context)
        int8 = within(options, byte_budget(options, self.extra)).int8
        return Quantize(4, method=self.method, int8=int8).apply(model, context)

    def options(self, model: ChatModel, context: StepContext) -> list[Option]:
        """What each weight of this model costs on either grid."""
        batches = calibration(model, context, "choosing bits needs dialogues to see what they cost", 48, longest=256)
        int4, results = Quantize(4, method=self.method).round_model(model, context)
        network = int4.network
        put(network, {name: weight.original for name, weight in results.items()})
        targets = [w for w in weights(network) if w.role in ("body", "head") and fits(w)]
        return sensitivities(network, batches, targets, results)
