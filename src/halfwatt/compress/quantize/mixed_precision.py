"""Mixed int4 and int8: spend the bytes where a byte saves most.

    loss(choice) ~ sum over weights of KL(model || model with this weight alone on that grid)
    frontier     = for every price of a byte, the choice that minimises loss + price * bytes

With a price each weight chooses for itself, so the whole frontier is one sort by (loss saved) / (bytes paid). Every
point of it is the best of all choices that read no more bytes (the Lagrangian's property). Between two points lie
choices that no price finds, and where one weight is a fifth of all, as a head can be, they matter: for a given number
of bytes the best choice is found exactly. That losses add up is an assumption: good near the model, and only ever used
to choose, never to judge. Source: Shoham and Gersho 1988 (Lagrangian bit allocation).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch

from halfwatt.compress.base import Stage, StepContext
from halfwatt.compress.quantize.quantize import Method, Quantize, RoundedWeight
from halfwatt.compress.search_ranges import Between, OneOf
from halfwatt.compress.training import losses
from halfwatt.compress.training.batches import Batch, Predictor, in_batches
from halfwatt.core.errors import BadInput
from halfwatt.models.chat_model import ChatModel
from halfwatt.models.grid import BLOCK_BYTES, GROUP, GridTensor, dequantize, quantize
from halfwatt.models.weights import Weight, fits, put, weights

_DIALOGUES, _LONGEST = 48, 256


# --- pure ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Option:
    """One weight on either grid: bytes read a token, and what the model then loses, in nats a token."""

    name: str
    bytes_b: tuple[int, int]  # int4, int8
    nats: tuple[float, float]  # likewise


@dataclass(frozen=True, slots=True)
class Point:
    """One choice of the frontier: which weights are at int8."""

    bytes_b: int
    nats: float
    int8: tuple[str, ...]


def frontier(options: Sequence[Option]) -> list[Point]:
    """From everything at int4 to everything that gains by it at int8, one weight a step."""
    gaining = [o for o in options if o.nats[0] > o.nats[1]]
    ranked = sorted(gaining, key=lambda o: (o.nats[0] - o.nats[1]) / (o.bytes_b[1] - o.bytes_b[0]), reverse=True)
    points = [Point(sum(o.bytes_b[0] for o in options), sum(o.nats[0] for o in options), ())]
    for option in ranked:
        last = points[-1]
        points.append(
            Point(
                last.bytes_b + option.bytes_b[1] - option.bytes_b[0],
                last.nats + option.nats[1] - option.nats[0],
                (*last.int8, option.name),
            )
        )
    return points


def within(options: Sequence[Option], bytes_b: float) -> Point:
    """The choice that loses least of all that read no more than ``bytes_b``; all int4 where even that reads more.

    Weight by weight, only choices are kept that no other beats in bytes and nats both (Nemhauser and Ullmann 1969); as
    weights come in few sizes, these are few.
    """
    kept = [Point(sum(o.bytes_b[0] for o in options), sum(o.nats[0] for o in options), ())]
    for option in options:
        paid, lost = option.bytes_b[1] - option.bytes_b[0], option.nats[1] - option.nats[0]
        more = [Point(p.bytes_b + paid, p.nats + lost, (*p.int8, option.name)) for p in kept]
        kept = _unbeaten([*kept, *(p for p in more if p.bytes_b <= bytes_b)])
    return kept[-1]


def _unbeaten(points: Sequence[Point]) -> list[Point]:
    """Bytes rising, nats falling."""
    found: list[Point] = []
    for point in sorted(points, key=lambda p: (p.bytes_b, p.nats)):
        if not found or point.nats < found[-1].nats:
            found.append(point)
    return found


# --- the step ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def sensitivities(
    network: Any, batches: Sequence[Batch], targets: Sequence[Weight], settled: Mapping[str, RoundedWeight]
) -> list[Option]:
    """Each weight on either grid alone, in place and put back: KL in nats a token from the network as it is.

    settled: what int4 made of each, by name
    """
    predictor = Predictor(network).eval()
    wanted = [predictor(b.ids, b.reply) for b in batches]

    def alone(weight: Weight, grid: GridTensor) -> float:
        weight.put(dequantize(grid))
        found = [losses.forward_kl(w, predictor(b.ids, b.reply)) for w, b in zip(wanted, batches, strict=True)]
        weight.put(settled[weight.name].unrounded)
        return float(torch.cat(found).mean())

    def option(weight: Weight) -> Option:
        own, count = settled[weight.name], weight.parameter.numel()
        nats = alone(weight, own.grid), alone(weight, quantize(own.unrounded, 8, "mse"))
        return Option(weight.name, (count * BLOCK_BYTES[4] // GROUP, count * BLOCK_BYTES[8] // GROUP), nats)

    return [option(weight) for weight in targets]


@dataclass(frozen=True, slots=True)
class Mixed:
    """int4, with int8 where it saves most loss for its bytes.

    extra:   share of the bytes between all int4 and all int8 that may be spent
    method:  "rtn" or "gptq", as in `Quantize`; what int4 costs a weight is measured with it too
    """

    extra: Annotated[float, Between(0.05, 0.5)] = 0.1
    method: Annotated[Method, OneOf("rtn", "gptq")] = "rtn"

    name: ClassVar[str] = "mixed"
    stage: ClassVar[Stage] = Stage.NUMERICS
    source: ClassVar[str] = "Shoham and Gersho 1988; sensitivities by KL, one weight at a time"

    def __str__(self) -> str:
        return f"mixed {self.extra:.3g}{' GPTQ' if self.method == 'gptq' else ''}"

    def problems(self, model: ChatModel, /) -> list[str]:
        """Those of `Quantize`, and a share that cannot be."""
        found = Quantize(4).problems(model)
        return found if 0 <= self.extra <= 1 else [*found, f"extra lies between 0 and 1, not {self.extra:g}"]

    def apply(self, model: ChatModel, context: StepContext, /) -> ChatModel:
        """Measure the sensitivities, choose, round.

        Raises:
            BadInput: no dialogues to measure them on.
        """
        options = self.options(model, context)
        chosen = within(options, _spend(frontier(options), self.extra))
        return Quantize(4, method=self.method, int8=chosen.int8).apply(model, context)

    def options(self, model: ChatModel, context: StepContext) -> list[Option]:
        """What each weight of this model costs on either grid."""
        if not context.dialogues:
            raise BadInput("choosing bits needs dialogues to see what they cost", hint="pass --dialogues FILE")
        made, settled = Quantize(4, method=self.method).rounded(model, context)
        network = made.network
        put(network, {name: s.unrounded for name, s in settled.items()})
        batches = in_batches(context.some(_DIALOGUES), model.tokenizer, min(_LONGEST, model.context))
        targets = [w for w in weights(network) if w.role in ("body", "head") and fits(w)]
        return sensitivities(network, batches, targets, settled)


def _spend(points: Sequence[Point], extra: float) -> float:
    """Bytes: int4's, and a share of what the frontier's end reads more."""
    return points[0].bytes_b + extra * (points[-1].bytes_b - points[0].bytes_b)
