"""Round to nearest on the int8 and int4 grids: which weights of a network can go there, and the step that does it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from halfwatt.chat_model import ChatModel
from halfwatt.errors import ModelError
from halfwatt.grids import GROUP, Bits, GridTensor, ScaleSearch, dequantize, quantize
from halfwatt.records import KeptLayer
from halfwatt.steps.base import Stage, StepContext

Role = Literal["body", "head", "embedding", "positions"]


@dataclass(frozen=True, slots=True)
class Weight:
    """A matrix of the network: every Linear (GPT-2's Conv1D is one, stored the other way round) and every embedding.

    name:        the parameter's name in the network; tied weights appear once, under the first name
    role:        "head" = output head, tied to the input embedding or not; "embedding" = an input embedding of its own;
                 "positions" = learned position embedding; else "body"
    transposed:  the parameter is stored [in, out]; rows are always outputs, as runtimes store them
    """

    name: str
    parameter: torch.Tensor
    role: Role
    transposed: bool

    def rows(self) -> torch.Tensor:
        """The weight as [out, in]; a view."""
        return self.parameter.detach().T if self.transposed else self.parameter.detach()


def weights(network: PreTrainedModel) -> Iterator[Weight]:
    """Every matrix of the network that a runtime multiplies by or looks rows up in, in the order of its modules."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}  # tied ones once, first name
    head = network.get_output_embeddings()  # type: ignore[no-untyped-call]
    embedding = network.get_input_embeddings()
    tied = embedding.weight is head.weight
    roles: dict[int, Role] = {id(embedding): "head" if tied else "embedding", id(head): "head"}
    seen: set[str] = set()
    for module in network.modules():
        if not isinstance(module, nn.Linear | nn.Embedding | Conv1D):
            continue
        name = names[id(module.weight)]
        if name in seen:
            continue
        seen.add(name)
        role = roles.get(id(module), "positions" if isinstance(module, nn.Embedding) else "body")
        yield Weight(name, module.weight, role, isinstance(module, Conv1D))


def untie(network: PreTrainedModel) -> None:
    """Give the head a copy of the embedding's weights, in place; an untied network stays as it is."""
    embedding = network.get_input_embeddings()
    if network.get_output_embeddings().weight is not embedding.weight:  # type: ignore[no-untyped-call]
        return
    rows, columns = embedding.weight.shape
    head = nn.Linear(columns, rows, bias=False)
    head.weight = nn.Parameter(embedding.weight.detach().clone())
    network.set_output_embeddings(head)  # type: ignore[no-untyped-call]
    network.config.tie_word_embeddings = False


def _unfit(weight: Weight) -> str | None:
    if weight.role == "positions":
        return "position embedding: one row a token is read, nothing to save"
    columns = weight.rows().shape[1]
    if columns % GROUP:
        return f"its rows of {columns} do not divide into groups of {GROUP}"
    return None


@dataclass(frozen=True, slots=True)
class Quantize:
    """Every Linear, the head and the embedding rounded to the nearest point of an integer grid.

    bits:            of the Linear layers
    head_bits:       of the output head; None = the same
    embedding_bits:  of the input embedding. One row of it is looked up a token, so fewer bits save room but no
                     reading; where it shares the head's weights and their bits differ, each gets its own
    scale_search:    "mse" = the scale with the least squared error per group, "absmax" = the one that clips nothing
    """

    bits: Bits = 4
    head_bits: Bits | None = None
    embedding_bits: Bits = 8
    scale_search: ScaleSearch = "mse"

    name: ClassVar[str] = "quantize"
    stage: ClassVar[Stage] = Stage.NUMERICS
    source: ClassVar[str] = "round to nearest, symmetric, 32 weights a scale: llama.cpp's Q8_0 and Q4_0"

    def problems(self, model: ChatModel, /) -> list[str]:
        """Already on a grid, a weight that is not finite (named), or no weight at all that fits."""
        found = [] if not model.grid else [f"it is on an integer grid already ({' -> '.join(model.lineage)})"]
        found += [
            f"{w.name} holds values that are not finite"
            for w in weights(model.network)
            if not torch.isfinite(w.parameter).all()
        ]
        if all(_unfit(w) for w in weights(model.network)):
            found.append(f"no weight has rows that divide into groups of {GROUP}")
        return found

    def apply(self, model: ChatModel, _context: StepContext, /) -> ChatModel:
        """A float32 copy of the network whose weights are exactly ``s * q``, with ``grid`` holding the integers.

        float32, because bf16 could not hold ``s * q`` and the copy would no longer be what the runtimes compute with.
        What cannot go on the grid is added to ``kept`` with the reason.

        Raises:
            ModelError: a weight cannot be rounded; names it.
        """
        network = copy.deepcopy(model.network).float()  # type: ignore[no-untyped-call]
        if self.embedding_bits != self._head_bits and all(
            _unfit(w) is None for w in weights(network) if w.role == "head"
        ):
            untie(network)
        grid = {w.name: self._rounded(w) for w in weights(network) if _unfit(w) is None}
        fill(network, grid)
        kept = [KeptLayer(w.name, "16 bits", reason) for w in weights(network) if (reason := _unfit(w))]
        kept += [
            KeptLayer(w.name, f"int{self.embedding_bits}", "one row a token is looked up: fewer bits save no reading")
            for w in weights(network)
            if w.role == "embedding" and w.name in grid and self.embedding_bits > self._head_bits
        ]
        return replace(
            model, network=network, grid=grid, lineage=(*model.lineage, self.summary), kept=(*model.kept, *kept)
        )

    @property
    def summary(self) -> str:
        head = "" if self._head_bits == self.bits else f", int{self._head_bits} head"
        embedding = "" if self.embedding_bits == self._head_bits else f", int{self.embedding_bits} embedding"
        return f"round to nearest: int{self.bits}{head}{embedding}, groups of {GROUP}, {self.scale_search} scales"

    @property
    def _head_bits(self) -> Bits:
        return self.head_bits or self.bits

    def _rounded(self, weight: Weight) -> GridTensor:
        bits = {"head": self._head_bits, "embedding": self.embedding_bits}.get(weight.role, self.bits)
        try:
            return quantize(weight.rows(), bits, self.scale_search)
        except ModelError as fault:
            raise ModelError(f"{weight.name}: {fault.what}", found=fault.found, hint=fault.hint) from fault


def fill(network: PreTrainedModel, grid: Mapping[str, GridTensor]) -> None:
    """Write ``s * q`` into the network's own parameters, in place; tied parameters stay tied."""
    with torch.no_grad():
        for weight in weights(network):
            if weight.name in grid:
                values = dequantize(grid[weight.name])
                weight.parameter.copy_(values.T if weight.transposed else values)
