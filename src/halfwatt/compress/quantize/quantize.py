"""The int8 and int4 grids: which weights of a network can go there, and the step that puts them there."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from halfwatt.compress.base import Stage, StepContext
from halfwatt.compress.quantize.column_balancing import Handover, handed_over, handovers
from halfwatt.compress.quantize.gptq import (
    DAMPINGS,
    Calibration,
    GptqSettings,
    HeadStatistics,
    Walk,
    gptq_head,
    rounded,
)
from halfwatt.compress.search_ranges import OneOf
from halfwatt.compress.training.batches import in_batches
from halfwatt.core.errors import BadInput, ModelError
from halfwatt.dialogues.dialogue import Dialogue
from halfwatt.models.architecture import final_norm
from halfwatt.models.chat_model import ChatModel
from halfwatt.models.grid import GROUP, Bits, GridTensor, ScaleSearch, dequantize, quantize
from halfwatt.models.lineage import KeptLayer
from halfwatt.models.weights import Weight, _own_head, _unfit, fill, fits, untie, weights

CALIBRATION = 256  # dialogues, at most

MIN_CALIBRATION = 8  # different ones, at least

_LONGEST = 512

Method = Literal["rtn", "gptq"]


@dataclass(frozen=True, slots=True)
class RoundedWeight:
    """What became of one weight; all [out, in].

    grid:       its integers
    before:     what they were rounded from, which gptq moves away from the weight to make up for other errors
    unrounded:  the weight, its outlier columns handed over
    note:       for the lineage
    """

    grid: GridTensor
    before: torch.Tensor
    unrounded: torch.Tensor
    note: str = ""


@dataclass(frozen=True, slots=True)
class Quantize:
    """Every Linear, the head and the embedding put on an integer grid.

    method:          "rtn" = round each weight to the nearest, by itself; "gptq" = each column makes up for the errors
                     of those before it, on the dialogues' activations, and outlier columns are handed over first
                     (gptq.py, column_balancing.py); the embedding is always rtn
    bits:            of the Linear layers
    head_bits:       of the output head; None = the same
    embedding_bits:  of the input embedding. One row of it is looked up a token, so fewer bits save room but no
                     reading; where it shares the head's weights and their bits differ, each gets its own
    scale_search:    "mse" = the scale with the least squared error per group, "absmax" = the one that clips nothing,
                     "hqq" = the one with the least sum of |error|^0.7; gptq has its own
    sweeps:          sweeps of coordinate_descent.py over gptq's integers; 0 = none
    int8:            names of weights that stay at int8 whatever ``bits`` says
    """

    bits: Annotated[Bits, OneOf(4, 8)] = 4
    head_bits: Annotated[Bits | None, OneOf(None, 8)] = None
    embedding_bits: Bits = 8
    scale_search: ScaleSearch = "mse"
    method: Annotated[Method, OneOf("rtn", "gptq")] = "rtn"
    sweeps: int = 8
    int8: tuple[str, ...] = ()

    name: ClassVar[str] = "quantize"
    stage: ClassVar[Stage] = Stage.NUMERICS
    source: ClassVar[str] = "round to nearest, symmetric, 32 weights a scale: llama.cpp's Q8_0 and Q4_0"

    def __str__(self) -> str:
        head = "" if self.head_bits is None else f" + int{self.head_bits} head"
        return f"int{self.bits}{' GPTQ' if self.method == 'gptq' else ''}{head}"

    def problems(self, model: ChatModel, /) -> list[str]:
        """Already on a grid, a weight that is not finite or not there (named), or no weight at all that fits."""
        found = [] if self.sweeps >= 0 else [f"sweeps must be 0 or more, not {self.sweeps}"]
        found += [] if not model.grid else [f"it is on an integer grid already ({' -> '.join(model.lineage)})"]
        every = tuple(weights(model.network))
        found += [f"{w.name} holds values that are not finite" for w in every if not torch.isfinite(w.parameter).all()]
        unknown = sorted(set(self.int8) - {w.name for w in every} - {_own_head(model.network)})
        if unknown:
            found.append(f"int8 names {unknown[0]}, which is no weight of this model")
        if not any(map(fits, every)):
            found.append(f"no weight has rows that divide into groups of {GROUP}")
        return found

    def apply(self, model: ChatModel, context: StepContext, /) -> ChatModel:
        """A float32 copy of the network whose weights are exactly ``s * q``, with ``grid`` holding the integers.

        float32, because bf16 could not hold ``s * q`` and the copy would no longer be what the runtimes compute with.
        What cannot go on the grid is added to ``kept`` with the reason.

        Raises:
            ModelError: a weight cannot be rounded; names it.
            BadInput: gptq without enough different dialogues.
        """
        return self.rounded(model, context)[0]

    def rounded(self, model: ChatModel, context: StepContext) -> tuple[ChatModel, dict[str, RoundedWeight]]:
        """`apply`; and by name what became of each weight on the grid."""
        network = self.unrounded(model)
        settled = self._compensated(network, model, context) if self.method == "gptq" else {}
        alone = [w for w in weights(network) if _unfit(w) is None and w.name not in settled]
        own = dict(model.network.named_parameters(remove_duplicate=False))  # an untied head under its own name
        settled |= {w.name: self._alone(replace(w, parameter=own[w.name])) for w in alone}
        grid = {name: s.grid for name, s in settled.items()}
        fill(network, grid)
        kept = [KeptLayer(w.name, "16 bits", reason) for w in weights(network) if (reason := _unfit(w))]
        kept += [
            KeptLayer(w.name, f"int{self.embedding_bits}", "one row a token is looked up: fewer bits save no reading")
            for w in weights(network)
            if w.role == "embedding" and w.name in grid and self.embedding_bits > self._head_bits
        ]
        lineage = (*model.lineage, self.summary, *(s.note for s in settled.values() if s.note))
        return replace(model, network=network, grid=grid, lineage=lineage, kept=(*model.kept, *kept)), settled

    def unrounded(self, model: ChatModel) -> PreTrainedModel:
        """A float32 copy of the network with the matrices that will be rounded: untied where its two uses differ."""
        network: PreTrainedModel = copy.deepcopy(model.network).float()  # type: ignore[no-untyped-call]
        if self.embedding_bits != self._head_bits and all(
            _unfit(w) is None for w in weights(network) if w.role == "head"
        ):
            untie(network)
        return network

    @property
    def summary(self) -> str:
        head = "" if self._head_bits == self.bits else f", int{self._head_bits} head"
        embedding = "" if self.embedding_bits == self._head_bits else f", int{self.embedding_bits} embedding"
        how = "round to nearest" if self.method == "rtn" else "GPTQ"
        descent = f", {self.sweeps} sweeps downhill" if self.sweeps else ""
        scales = (
            f"{self.scale_search} scales" if self.method == "rtn" else f"columns balanced, scales by diag H{descent}"
        )
        mixed = f", {len(self.int8)} weights at int8" if self.int8 else ""
        return f"{how}: int{self.bits}{head}{embedding}{mixed}, groups of {GROUP}, {scales}"

    @property
    def _head_bits(self) -> Bits:
        return self.head_bits or self.bits

    def _bits(self, weight: Weight) -> Bits:
        if weight.name in self.int8:
            return 8
        return {"head": self._head_bits, "embedding": self.embedding_bits}.get(weight.role, self.bits)

    def _compensated(
        self, network: PreTrainedModel, model: ChatModel, context: StepContext
    ) -> dict[str, RoundedWeight]:
        """GPTQ on every matrix of the blocks, and on a head with weights of its own."""
        if len({d.messages for d in context.dialogues}) < MIN_CALIBRATION:
            raise BadInput(
                f"gptq needs {MIN_CALIBRATION} or more different dialogues to calibrate on",
                got=str(len({d.messages for d in context.dialogues})),
                hint="pass --dialogues FILE, or use --method rtn",
            )
        targets = {id(w.parameter): w for w in weights(network) if _unfit(w) is None and w.role in ("body", "head")}
        embedding = network.get_input_embeddings().weight
        targets.pop(id(embedding), None)  # a tied head: its error would be the embedding's too
        batches = calibration(model, context.some(CALIBRATION))
        return compensate(
            network, targets, lambda weight: GptqSettings(self._bits(weight), sweeps=self.sweeps), batches
        )

    def _alone(self, weight: Weight) -> RoundedWeight:
        rows = weight.rows()
        try:
            return RoundedWeight(quantize(rows, self._bits(weight), self.scale_search), rows, rows)
        except ModelError as fault:
            raise ModelError(f"{weight.name}: {fault.what}", got=fault.got, hint=fault.hint) from fault


def calibration(model: ChatModel, dialogues: Sequence[Dialogue]) -> list[Calibration]:
    """The dialogues as batches; what counts are the positions from which a reply's tokens are predicted."""
    found = []
    for batch in in_batches(dialogues, model.tokenizer, min(_LONGEST, model.context)):
        counted = torch.zeros_like(batch.reply)
        counted[:, :-1] = batch.reply[:, 1:]
        found.append(Calibration(batch.ids, counted))
    return found


def compensate(
    network: PreTrainedModel,
    targets: Mapping[int, Weight],
    how: Callable[[Weight], GptqSettings],
    batches: Sequence[Calibration],
) -> dict[str, RoundedWeight]:
    """Round the blocks one after the other, in place, then the head; each sees what the rounded ones before it make.

    targets: id of the parameter -> the weight, for all that are to be rounded
    Returns, by name, what became of each; with a note where it had to be rounded to nearest after all.
    """
    walk = Walk(network, batches)
    settled: dict[str, RoundedWeight] = {}

    def settle(module: nn.Module, hessian: torch.Tensor, asked: HeadStatistics | None = None) -> None:
        weight = targets[id(module.weight)]
        settled[weight.name] = _one(weight, hessian, how(weight), asked)
        weight.put(dequantize(settled[weight.name].grid))

    for block in walk.blocks:
        inner = [m for m in block.modules() if isinstance(m, nn.Linear | Conv1D) and id(m.weight) in targets]
        hessians = {module: sums.hessian for module, sums in walk.sums(block, inner).items()}
        for handover in handovers(network, block):
            if (found := hessians.get(handover.readers[0])) is not None:
                c = handed_over(handover, found)
                hessians |= {r: found / c[:, None] / c for r in handover.readers if r in hessians}
        for module, hessian in hessians.items():
            settle(module, hessian)
        walk.advance(block)
    head: nn.Module = network.get_output_embeddings()  # type: ignore[no-untyped-call]
    if id(head.weight) in targets:
        asked = HeadStatistics.of(targets[id(head.weight)].rows().float(), walk.final(network))
        handover = Handover(final_norm(network), (head,))
        asked = asked.scaled(handed_over(handover, asked.hessian, asked.matters))
        settle(head, asked.hessian, asked)
    return settled


def _one(weight: Weight, hessian: torch.Tensor, how: GptqSettings, asked: HeadStatistics | None) -> RoundedWeight:
    """GPTQ with as much damping as it takes; to nearest, said aloud, where none is enough. asked: for the head."""
    rows = weight.rows().float().clone()
    for damping in DAMPINGS:
        tried = replace(how, damping=damping)
        found = gptq_head(rows, asked, tried) if asked else rounded(rows, hessian, tried)
        if found is not None:
            note = "" if damping == DAMPINGS[0] else f"{weight.name}: damping {damping:g} was needed"
            return RoundedWeight(*found, rows, note)
    note = f"{weight.name}: rounded to nearest, its activations span too little"
    return RoundedWeight(quantize(rows, how.bits, "mse"), rows, rows, note)
