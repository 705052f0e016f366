"""What a recipe would save on hardware that is not at hand: a ratio of energies, predicted from bytes and operations.

    E ~ t0 = bytes / bandwidth + a * operations / peak + b * passes through a block

of a reply: weights are read once a decode step for the whole batch and once for a prompt, the KV cache once a step and
reply; two operations for each weight and token; a pass is one block of one step. Power cancels: it is taken to be the
same for original and candidate. ``a``: how far below their peak small batches compute; ``b``: what a block costs that
holds no weights at all (launching kernels, waiting for each other).

a and b are fitted to published measurements of llama.cpp and vLLM (benchmarks/planner.py: J/token of five GPUs; on CPUs
J/token of a board and CPU-seconds a token of a core), by least squares on the logarithm with a scale for each device.
The error is that of a ratio on a device left out of the fit, 95th percentile: what may be expected of hardware that
nobody has measured. On CPUs, where two devices are all there is, it is no smaller than that of bytes alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

import torch

from halfwatt.compress.base import Stage, require
from halfwatt.compress.quantize.mixed_precision import Mixed
from halfwatt.compress.quantize.qat import TrainOnGrid
from halfwatt.compress.quantize.quantize import Quantize
from halfwatt.compress.recipe import Recipe
from halfwatt.core.errors import BadInput
from halfwatt.core.estimate import Estimate
from halfwatt.core.statistics import widened
from halfwatt.dialogues.dialogue import Dialogue
from halfwatt.meters.base import Grade, Kind
from halfwatt.models.chat_model import ChatModel
from halfwatt.models.grid import BLOCK_BYTES, GROUP
from halfwatt.models.tokenizer import ChatTokenizer, without_odd
from halfwatt.models.weights import Weight, fits, weights, weights_read
from halfwatt.search.hardware import Hardware

PROMPT = 512  # tokens that read the weights once together
_STORED_B = {16: 2.0, **{bits: size / GROUP for bits, size in BLOCK_BYTES.items()}}  # bytes a weight


@dataclass(frozen=True, slots=True)
class Coefficients:
    """Of one kind of device."""

    compute: float  # a above
    block_s: float  # b above
    error: float  # 95th percentile of a ratio's error on a device left out of the fit; 0.5 = +50 % or -33 %
    measurements: int  # that they were fitted to


FITTED = {
    "gpu": Coefficients(compute=6.63, block_s=5.21e-5, error=0.415, measurements=35),
    "cpu": Coefficients(compute=0.611, block_s=2.95e-5, error=0.729, measurements=12),
}


@dataclass(frozen=True, slots=True)
class Shape:
    """A model as one pass through it meets it. Looked-up tables are not read; norms and biases are 32 bits."""

    blocks: int
    numbers: int  # weights that each token is multiplied by
    read_b: int  # bytes of weights that a decode step reads
    kv_b_per_token: int  # at 16 bits


@dataclass(frozen=True, slots=True)
class Exchange:
    """The mean reply of some traffic, in tokens."""

    fresh: float  # of the prompt, read for this reply: what the KV cache holds of earlier turns is not read again
    reply: float
    context: float  # that a token of the reply looks back on

    @classmethod
    def of(cls, dialogues: Sequence[Dialogue], tokenizer: ChatTokenizer) -> Exchange:
        """As the human replies of some dialogues ask for it. Raises BadInput where there is none."""
        fresh = reply = context = turns = 0
        for dialogue, tokens in without_odd(dialogues, tokenizer.scored)[0]:
            at = [i for i, own in enumerate(tokens.reply) if own]
            turns += len(dialogue.assistant_turns)
            reply += len(at)
            context += sum(at)
            fresh += at[-1] + 1 - len(at) if at else 0
        if not reply:
            raise BadInput("no reply in the dialogues to plan for")
        return cls(fresh / turns, reply / turns, context / reply)


@dataclass(frozen=True, slots=True)
class Prediction:
    """One recipe on one device: the original's energy of a reply at 16 bits over the recipe's."""

    recipe: str
    hardware: Hardware
    energy_ratio: Estimate


@dataclass(frozen=True, slots=True)
class PredictionTable:
    """Predictions, and what they were made for."""

    model: str
    batch: int
    exchange: Exchange
    read_b: dict[str, int]  # bytes of weights that a decode step reads, by recipe
    predictions: tuple[Prediction, ...]
    grade: Grade = "E"
    kind: Kind = "modelled"


def seconds(shape: Shape, exchange: Exchange, hardware: Hardware, own: Coefficients, batch: int = 1) -> float:
    """t0 above, of one reply of ``batch`` that are answered together."""
    steps = exchange.reply / batch + ceil(exchange.fresh / PROMPT)
    read = shape.read_b * steps + shape.kv_b_per_token * exchange.context * exchange.reply
    operations = 2 * shape.numbers * (exchange.fresh + exchange.reply)
    computing = own.compute * operations / (hardware.teraflops * 1e12)
    return read / (hardware.gigabytes_s * 1e9) + computing + own.block_s * shape.blocks * steps


def plan(
    model: ChatModel,
    recipes: Sequence[Recipe],
    devices: Sequence[Hardware],
    dialogues: Sequence[Dialogue],
    batch: int = 1,
) -> PredictionTable:
    """Every recipe on every device, against ``model`` as it is in the same runtime.

    The model's weights are not looked at (`chat_model.outline`); a vocabulary is trimmed to the dialogues too.

    Raises:
        BadInput: no dialogues, a batch below 1, or two recipes of one name. ModelError: a recipe does not fit.
    """
    if batch < 1:
        raise BadInput("--batch is 1 or more", got=str(batch))
    if twice := [name for name, count in Counter(recipe.name for recipe in recipes).items() if count > 1]:
        raise BadInput(f"two recipes are called {twice[0]}", hint="give one of them another name = in its file")
    exchange, original = Exchange.of(dialogues, model.tokenizer), shape(model, Recipe("original"), dialogues)
    shapes = {recipe.name: shape(model, recipe, dialogues) for recipe in recipes}

    def prediction(name: str, device: Hardware) -> Prediction:
        own = FITTED["cpu" if device.kind == "cpu" else "gpu"]
        base, cand = (seconds(s, exchange, device, own, batch) for s in (original, shapes[name]))
        ratio = Estimate(base / cand, base / cand, base / cand, "x", own.measurements)
        return Prediction(name, device, widened(ratio, own.error))

    read_b = {"original": original.read_b} | {name: s.read_b for name, s in shapes.items()}
    rows = tuple(prediction(name, device) for device in devices for name in shapes)
    return PredictionTable(str(model.source.name), batch, exchange, read_b, rows)


def shape(model: ChatModel, recipe: Recipe, dialogues: Sequence[Dialogue]) -> Shape:
    """What a recipe would make of ``model``, from sizes alone. Raises ModelError where a step does not fit."""
    rounding: Quantize | TrainOnGrid | Mixed | None = None
    for step in recipe.steps:
        if step.stage is Stage.STRUCTURE:
            require(step, model)
            with torch.device("meta"):
                model = replace(model, network=step.resized(model, dialogues))
        elif isinstance(step, Quantize | TrainOnGrid | Mixed):
            rounding = step
    read = [w for w in weights(model.network) if not w.looked_up]
    numbers = sum(w.parameter.numel() for w in read)
    rest = weights_read(model.network) - numbers
    read_b = round(sum(w.parameter.numel() * _stored_b(w, rounding) for w in read)) + 4 * rest
    config = model.network.config
    return Shape(config.num_hidden_layers, numbers, read_b, kv_b_per_token=2 * model.architecture.kv_numbers(config))


def _stored_b(weight: Weight, rounding: Quantize | TrainOnGrid | Mixed | None) -> float:
    """Bytes a number of this weight takes."""
    if rounding is None or not fits(weight):
        return _STORED_B[16]
    if isinstance(rounding, Mixed):
        return _STORED_B[4] + rounding.extra * (_STORED_B[8] - _STORED_B[4])
    if isinstance(rounding, Quantize) and weight.name in rounding.int8:
        return _STORED_B[8]
    return _STORED_B[(weight.role == "head" and rounding.head_bits) or rounding.bits]
