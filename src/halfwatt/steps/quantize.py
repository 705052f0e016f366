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

Role = Literal["body", "head", "positions"]


@dataclass(frozen=True, slots=True)
class Weight:
    """A matrix of the network: every Linear (GPT-2's Conv1D is one, stored the other way round) and every embedding.

    name:        the parameter's name in the network; tied weights appear once, under the first name
    role:        "head" = input embedding or output head, "positions" = learned position embedding, else "body"
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
    ends = {id(network.get_input_embeddings()), id(head)}
    seen: set[str] = set()
    for module in network.modules():
        if not isinstance(module, nn.Linear | nn.Embedding | Conv1D):
            continue
        name = names[id(module.weight)]
        if name in seen:
            continue
        seen.add(name)
        role: Role = "head" if id(module) in ends else "positions" if isinstance(module, nn.Embedding) else "body"
        yield Weight(name, module.weight, role, isinstance(module, Conv1D))


def _unfit(weight: Weight) -> str | None:
    if weight.role == "positions":
        return "position embedding: one row a token is read, nothing to save"
    columns = weight.rows().shape[1]
    if columns % GROUP:
        return f"its rows of {columns} do not divide into groups of {GROUP}"
    return None


@dataclass(frozen=True, slots=True)
class Quantize:
    """Every Linear and the embedding/head rounded to the nearest point of an integer grid.

    bits:          of the Linear layers
    head_bits:     of the embedding and the head, tied or not; None = the same
    scale_search:  "mse" = the scale with the least squared error per group, "absmax" = the one that clips nothing
    """

    bits: Bits = 4
    head_bits: Bits | None = None
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
        grid = {w.name: self._rounded(w) for w in weights(network) if _unfit(w) is None}
        fill(network, grid)
        kept = [KeptLayer(w.name, "16 bits", reason) for w in weights(network) if (reason := _unfit(w))]
        return replace(
            model, network=network, grid=grid, lineage=(*model.lineage, self.summary), kept=(*model.kept, *kept)
        )

    @property
    def summary(self) -> str:
        head = "" if self.head_bits in (None, self.bits) else f", int{self.head_bits} head"
        return f"round to nearest: int{self.bits}{head}, groups of {GROUP}, {self.scale_search} scales"

    def _rounded(self, weight: Weight) -> GridTensor:
        bits = self.bits if weight.role == "body" else self.head_bits or self.bits
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
