"""The matrices of a network, one by one, and what is put in their place."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedModel

from halfwatt.models.architectures.registry import architecture_of
from halfwatt.models.grid import GROUP, GridTensor, dequantize

Role = Literal["body", "head", "embedding", "positions"]


@dataclass(frozen=True, slots=True)
class Weight:
    """A matrix of the network: what its modules multiply by or look rows up in.

    name:        the parameter's name in the network; tied weights appear once, under the first name
    role:        "head" = output head, tied to the input embedding or not; "embedding" = an input embedding of its own;
                 "positions" = learned position embedding; else "body"
    transposed:  the parameter is stored [in, out]; rows are always outputs, as runtimes store them
    """

    name: str
    parameter: torch.Tensor
    role: Role
    transposed: bool

    @property
    def looked_up(self) -> bool:
        """A decode step reads one row of it, where all others are read whole."""
        return self.role in ("embedding", "positions")

    def rows(self) -> torch.Tensor:
        """The weight as [out, in]; a view."""
        return self.parameter.detach().T if self.transposed else self.parameter.detach()

    def put(self, rows: torch.Tensor) -> None:
        """Write [out, in] into the network's own parameter."""
        with torch.no_grad():
            self.parameter.copy_(rows.T if self.transposed else rows)


def weights(network: PreTrainedModel) -> Iterator[Weight]:
    """Every matrix of the network that a runtime multiplies by or looks rows up in, in the order of its modules."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}  # tied ones once, first name
    head = network.get_output_embeddings()  # type: ignore[no-untyped-call]
    embedding = network.get_input_embeddings()
    own: Role = "head" if embedding.weight is head.weight else "embedding"
    roles: dict[int, Role] = {id(embedding): own, id(head): "head"}
    transposed = architecture_of(network).transposed
    module: Any
    for module in network.modules():
        name = names.pop(id(getattr(module, "weight", None)), None)  # each once
        if name is not None and module.weight.ndim == 2:
            role = roles.get(id(module), "positions" if isinstance(module, nn.Embedding) else "body")
            yield Weight(name, module.weight, role, transposed and role == "body")


def weights_read(network: PreTrainedModel) -> int:
    """Numbers that a decode step reads: all but tables where it looks up a row; a tied embedding whole, as the head."""
    looked_up = sum(w.parameter.numel() for w in weights(network) if w.looked_up)
    return sum(p.numel() for p in network.parameters()) - looked_up


def sharing(network: PreTrainedModel) -> PreTrainedModel:
    """Modules of its own, which may be changed, over the very tensors of ``network``."""
    tensors: tuple[torch.Tensor, ...] = (*network.parameters(), *network.buffers())
    return copy.deepcopy(network, {id(tensor): tensor for tensor in tensors})


def emptied(network: PreTrainedModel) -> PreTrainedModel:
    """A copy in which what fits the grid has only its shape, on torch's "meta": its numbers are to be elsewhere.

    Nothing of it is shared: the network's tensors may be of one mapped file, which a single norm would keep in memory.
    """
    gone = {id(w.parameter) for w in weights(network) if fits(w)}
    own: dict[int, torch.Tensor] = {id(buffer): buffer for buffer in network.buffers()}
    for parameter in network.parameters():
        values = parameter.detach()
        values = values.to("meta", torch.float32) if id(parameter) in gone else values.clone()
        own[id(parameter)] = nn.Parameter(values, requires_grad=False)
    return copy.deepcopy(network, own)


def device_of(network: PreTrainedModel) -> torch.device:
    """Where it computes; what has only its shape is nowhere."""
    return next(parameter.device for parameter in network.parameters() if not parameter.is_meta)


def untie(network: PreTrainedModel) -> None:
    """Give the head a copy of the embedding's weights, in place; an untied network stays as it is."""
    embedding = network.get_input_embeddings()
    if network.get_output_embeddings().weight is embedding.weight:  # type: ignore[no-untyped-call]
        rows, columns = embedding.weight.shape
        head = nn.Linear(columns, rows, bias=False, device="meta")
        head.weight = nn.Parameter(embedding.weight.detach().clone())
        network.set_output_embeddings(head)  # type: ignore[no-untyped-call]
        network.config.tie_word_embeddings = False


def head_name(network: PreTrainedModel) -> str:
    """The name that a head's weight has, or would have once untied."""
    head = network.get_output_embeddings()  # type: ignore[no-untyped-call]
    return next(f"{name}.weight" for name, module in network.named_modules() if module is head)


def misfit(weight: Weight) -> str | None:
    """The reason why this weight cannot go on the grid, or None."""
    if weight.role == "positions":
        return "position embedding: one row a token is read, nothing to save"
    columns = weight.rows().shape[1]
    return f"its rows of {columns} do not divide into groups of {GROUP}" if columns % GROUP else None


def fits(weight: Weight) -> bool:
    """Can this weight go on the grid?"""
    return misfit(weight) is None


def put(network: PreTrainedModel, rows: Mapping[str, torch.Tensor]) -> None:
    """Write some weights, [out, in] by name, into the network's own parameters, in place."""
    for weight in weights(network):
        if weight.name in rows:
            weight.put(rows[weight.name])


def fill(network: PreTrainedModel, grid: Mapping[str, GridTensor]) -> None:
    """Write ``s * q`` into the network's own parameters, in place; tied parameters stay tied."""
    for weight in weights(network):
        if weight.name in grid:
            weight.put(dequantize(grid[weight.name]))
