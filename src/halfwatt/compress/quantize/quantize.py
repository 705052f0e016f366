"""The step that puts a network on the int8 or int4 grid of llama.cpp's Q8_0 and Q4_0, rounded to nearest or by GPTQ."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from torch import nn
from transformers import PreTrainedModel

from halfwatt.compress.base import Stage, Step, StepContext
from halfwatt.compress.quantize.column_balancing import Handover, hand_over, handovers
from halfwatt.compress.quantize.gptq import DAMPINGS, GptqSettings, HeadStatistics, Walk, round_head, round_weight
from halfwatt.compress.search_ranges import OneOf
from halfwatt.compress.training.batches import Batch, calibration
from halfwatt.core.errors import BadInput, ModelError
from halfwatt.models.architectures.registry import architecture_of
from halfwatt.models.chat_model import ChatModel
from halfwatt.models.grid import GROUP, LEAST_SCALE, Bits, GridTensor, ScaleSearch, dequantize, limits, quantize
from halfwatt.models.lineage import KeptLayer
from halfwatt.models.weights import Weight, emptied, fill, fits, head_name, misfit, untie, weights

CALIBRATION = 256  # dialogues, at most
MIN_CALIBRATION = 8  # different ones, at least

Method = Literal["rtn", "gptq"]


@dataclass(frozen=True, slots=True)
class RoundedWeight:
    """One weight on the grid; all [out, in].

    grid:         its integers
    compensated:  what they were rounded from, which gptq moves away from the weight to make up for other errors
    original:     the weight, its outlier columns handed over
    note:         for the lineage
    stored:       its integers are those of the file that the model was read from
    """

    grid: GridTensor
    compensated: torch.Tensor
    original: torch.Tensor
    note: str = ""
    stored: bool = False


@dataclass(frozen=True, slots=True)
class Quantize(Step):
    """Every Linear, the head and the embedding put on an integer grid."""

    bits: Annotated[Bits, OneOf(4, 8)] = 4
    """Of the Linear layers."""
    head_bits: Annotated[Bits | None, OneOf(None, 8)] = None
    """Of the output head; None = the same."""
    embedding_bits: Bits = 8
    """Of the input embedding. One row of it is looked up a token, so fewer bits save room but no reading; where it
    shares the head's weights and their bits differ, each gets its own."""
    scale_search: ScaleSearch = "mse"
    """The scale of a group: with the least squared error ("mse"), the one that clips nothing ("absmax"), or with the
    least sum of |error|^0.7 ("hqq"); gptq has its own."""
    method: Annotated[Method, OneOf("rtn", "gptq")] = "rtn"
    """Each weight rounded to the nearest, by itself ("rtn"), or each column makes up for the errors of those before it,
    on the dialogues' activations, and outlier columns are handed over first ("gptq"; gptq.py, column_balancing.py); the
    embedding is always rtn."""
    sweeps: int = 8
    """gptq's integers then go downhill one by one, so many times over all (coordinate_descent.py); 0 = not at all."""
    int8: tuple[str, ...] = ()
    """Names of weights that stay at int8 whatever ``bits`` says."""

    name: ClassVar[str] = "quantize"
    stage: ClassVar[Stage] = Stage.NUMERICS

    def __str__(self) -> str:
        head = "" if self.head_bits is None else f" + int{self.head_bits} head"
        return f"int{self.bits}{' GPTQ' if self.method == 'gptq' else ''}{head}"

    @property
    def summary(self) -> str:
        head = "" if self._head_bits == self.bits else f", int{self._head_bits} head"
        embedding = "" if self.embedding_bits == self._head_bits else f", int{self.embedding_bits} embedding"
        mixed = f", {len(self.int8)} weights at int8" if self.int8 else ""
        if self.method == "rtn":
            method, scales = "round to nearest", f"{self.scale_search} scales"
        else:
            descent = f", {self.sweeps} sweeps downhill" if self.sweeps else ""
            method, scales = "GPTQ", f"columns balanced, scales by diag H{descent}"
        return f"{method}: int{self.bits}{head}{embedding}{mixed}, groups of {GROUP}, {scales}"

    def problems(self, model: ChatModel, /) -> list[str]:
        """Already on a grid, a weight that is not finite or not there (named), or no weight at all that fits."""
        problems = [] if self.sweeps >= 0 else [f"sweeps must be 0 or more, not {self.sweeps}"]
        if model.grid:
            problems.append(f"it is on an integer grid already ({' -> '.join(model.lineage)})")
        every = tuple(weights(model.network))
        for w in every:
            peak = float(torch.stack(w.parameter.detach().aminmax()).abs().max())
            if not math.isfinite(peak):
                problems.append(f"{w.name} holds values that are not finite")
            elif fits(w) and 0 < peak < LEAST_SCALE * limits(self._bits(w))[1]:
                problems.append(f"{w.name} is too small for 16-bit scales, none of its values exceeds {peak:.2g}")
        if unknown := sorted(set(self.int8) - {w.name for w in every} - {head_name(model.network)}):
            problems.append(f"int8 names {unknown[0]}, which is no weight of this model")
        if not any(map(fits, every)):
            problems.append(f"no weight has rows that divide into groups of {GROUP}")
        return problems

    def apply(self, model: ChatModel, context: StepContext, /) -> ChatModel:
        """A float32 copy of the network whose weights are exactly ``s * q``, with ``grid`` holding the integers.

        float32, because bf16 could not hold ``s * q`` and the copy would no longer be what the runtimes compute with.
        What cannot go on the grid is added to ``kept`` with the reason.

        Raises:
            ModelError: a weight cannot be rounded; names it.
            BadInput: gptq without enough different dialogues.
        """
        return self.round_model(model, context)[0]

    def integers(self, model: ChatModel, context: StepContext) -> ChatModel:
        """`apply` for what is written and not asked: its matrices are in ``grid`` alone, shapes in the network.

        Raises:
            ModelError, BadInput: as `apply`.
        """
        if self.method == "gptq":  # which runs the network as it rounds it
            return self.apply(model, context)
        network = emptied(model.network)
        self._untie_where_bits_differ(network)
        return self._on_grid(network, model, self._rounded(network, model, context))

    def round_model(self, model: ChatModel, context: StepContext) -> tuple[ChatModel, dict[str, RoundedWeight]]:
        """`apply`; and each weight on the grid by its name."""
        network = self.float_copy(model)
        results = self._rounded(network, model, context)
        rounded = self._on_grid(network, model, results)
        fill(network, rounded.grid)
        return rounded, results

    def _rounded(self, network: PreTrainedModel, model: ChatModel, context: StepContext) -> dict[str, RoundedWeight]:
        """Each matrix of ``network``, which is shaped like ``model``, by its name."""
        results = self._as_stored(network, model)
        if self.method == "gptq":
            results |= self._by_gptq(network, model, context, tuple(results))
        own = dict(model.network.named_parameters(remove_duplicate=False))  # an untied head under its own name
        for weight in weights(network):
            if fits(weight) and weight.name not in results:
                results[weight.name] = self._to_nearest(replace(weight, parameter=own[weight.name]))
        return results

    def _on_grid(self, network: PreTrainedModel, model: ChatModel, results: Mapping[str, RoundedWeight]) -> ChatModel:
        """What all of it comes to, and why."""
        grid = {name: weight.grid for name, weight in results.items()}
        kept = [KeptLayer(w.name, "16 bits", reason) for w in weights(network) if (reason := misfit(w))]
        if self.embedding_bits > self._head_bits:
            bits, reason = f"int{self.embedding_bits}", "one row a token is looked up: fewer bits save no reading"
            kept += [
                KeptLayer(w.name, bits, reason) for w in weights(network) if w.role == "embedding" and w.name in grid
            ]
        stored = sum(weight.stored for weight in results.values())
        notes = [f"{stored} weights keep the integers of the file"] if stored else []
        notes += [weight.note for weight in results.values() if weight.note]
        lineage = (*model.lineage, self.summary, *notes)
        return replace(model, network=network, grid=grid, lineage=lineage, kept=(*model.kept, *kept))

    def _as_stored(self, network: PreTrainedModel, model: ChatModel) -> dict[str, RoundedWeight]:
        """What a file gave on a grid of so many bits or fewer, and no step has changed: rounding it would cost."""
        results, own = dict[str, RoundedWeight](), dict(model.network.named_parameters())
        for weight in (w for w in weights(network) if w.name in own and fits(w)):
            grid = model.given.get(weight.name)
            if grid is not None and grid.bits <= self._bits(weight):
                values, rows = dequantize(grid), replace(weight, parameter=own[weight.name]).rows()
                if values.shape == rows.shape and torch.equal(values.to(rows.dtype), rows):
                    results[weight.name] = RoundedWeight(grid, rows, rows, stored=True)
        return results

    def float_copy(self, model: ChatModel) -> PreTrainedModel:
        """A float32 copy of the network with the matrices that will be rounded: untied where its two uses differ."""
        network: PreTrainedModel = copy.deepcopy(model.network).float()  # type: ignore[no-untyped-call]
        self._untie_where_bits_differ(network)
        return network

    def _untie_where_bits_differ(self, network: PreTrainedModel) -> None:
        """Embedding and head that get other bits cannot be tied; in place."""
        if self.embedding_bits != self._head_bits and all(fits(w) for w in weights(network) if w.role == "head"):
            untie(network)

    @property
    def _head_bits(self) -> Bits:
        return self.head_bits or self.bits

    def _bits(self, weight: Weight) -> Bits:
        own = {"head": self._head_bits, "embedding": self.embedding_bits}.get(weight.role, self.bits)
        return 8 if weight.name in self.int8 else own

    def _to_nearest(self, weight: Weight) -> RoundedWeight:
        rows = weight.rows()
        try:
            return RoundedWeight(quantize(rows, self._bits(weight), self.scale_search), rows, rows)
        except ModelError as fault:
            raise ModelError(f"{weight.name}: {fault.what}", got=fault.got, hint=fault.hint) from fault

    def _by_gptq(
        self, network: PreTrainedModel, model: ChatModel, context: StepContext, stored: Collection[str]
    ) -> dict[str, RoundedWeight]:
        every = {id(w.parameter): w for w in weights(network) if fits(w)}
        fixed = {parameter for parameter, w in every.items() if w.name in stored}
        targets = {p: w for p, w in every.items() if p not in fixed and w.role in ("body", "head")}
        targets.pop(id(network.get_input_embeddings().weight), None)  # a tied head: its error would be the embedding's
        if not targets:
            return {}
        purpose = f"gptq needs {MIN_CALIBRATION} or more different dialogues to calibrate on"
        if (different := len({d.messages for d in context.dialogues})) < MIN_CALIBRATION:
            raise BadInput(purpose, got=str(different), hint="pass --dialogues FILE, or use --method rtn")
        batches = calibration(model, context, purpose, CALIBRATION)
        return gptq_network(network, targets, lambda w: GptqSettings(self._bits(w), sweeps=self.sweeps), batches, fixed)


def gptq_network(
    network: PreTrainedModel,
    targets: Mapping[int, Weight],
    settings: Callable[[Weight], GptqSettings],
    batches: Sequence[Batch],
    fixed: Collection[int] = (),
) -> dict[str, RoundedWeight]:
    """Round the blocks one after the other, in place, then the head; each sees what the rounded ones before it make.

    targets: id of the parameter -> the weight, for all that are to be rounded
    fixed:   ids of those that stay as they are
    Returns each by name; with a note where it had to be rounded to nearest after all.
    """
    walk, results = Walk(network, batches), dict[str, RoundedWeight]()

    def put(module: nn.Module, hessian: torch.Tensor, head: HeadStatistics | None = None) -> None:
        weight = targets[id(module.weight)]
        results[weight.name] = _by_least_damping(weight, hessian, settings(weight), head)
        weight.put(dequantize(results[weight.name].grid))

    for block in walk.blocks:
        layers = [m for m in block.modules() if id(getattr(m, "weight", None)) in targets]
        hessians = walk.hessians(block, layers)
        for handover in handovers(network, block):
            if any(id(m.weight) in fixed for m in (handover.giver, *handover.readers)):
                continue  # what stays as it is cannot be scaled
            if (hessian := hessians.get(handover.readers[0])) is not None:
                c = hand_over(handover, hessian)
                hessians |= {r: hessian / c[:, None] / c for r in handover.readers if r in hessians}
        for layer, hessian in hessians.items():
            put(layer, hessian)
        walk.advance(block)
    output: nn.Module = network.get_output_embeddings()  # type: ignore[no-untyped-call]
    if id(output.weight) in targets:
        head = HeadStatistics.of(targets[id(output.weight)].rows().float(), walk.final(network))
        own = architecture_of(network)
        handover = Handover(own.final_norm(network), (output,), offset=own.norm_offset)
        head = head.scaled(hand_over(handover, head.hessian, head.sensitivity))
        put(output, head.hessian, head)
    return results


def _by_least_damping(
    weight: Weight, hessian: torch.Tensor, settings: GptqSettings, head: HeadStatistics | None
) -> RoundedWeight:
    """GPTQ with as much damping as it takes; to nearest, with a note, where none is enough. head: where it is one."""
    rows = weight.rows().float().clone()
    for damping in DAMPINGS:
        attempt = replace(settings, damping=damping)
        result = round_head(rows, head, attempt) if head else round_weight(rows, hessian, attempt)
        if result is not None:
            note = "" if damping == DAMPINGS[0] else f"{weight.name}: damping {damping:g} was needed"
            return RoundedWeight(*result, rows, note)
    note = f"{weight.name}: rounded to nearest, its activations span too little"
    return RoundedWeight(quantize(rows, settings.bits, "mse"), rows, rows, note)
