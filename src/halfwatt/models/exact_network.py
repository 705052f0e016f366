"""A network that computes in float32, each matrix in float32 only while it is multiplied by, and only a part of a large
one; of a table only the rows that are looked up.

A matrix on the grid is then exactly ``s * q``. What is there beside the model's own tensors is a part of one matrix.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from halfwatt.models.chat_model import ChatModel
from halfwatt.models.grid import GridTensor, dequantize, round_activations
from halfwatt.models.weights import Weight, device_of, sharing, weights

_AT_ONCE = 1 << 24  # numbers of a matrix that are float32 at a time, 64 MB


@dataclass(frozen=True, slots=True)
class _Matrix:
    """[out, in]: on the grid, or as the network stores it."""

    weight: Weight
    grid: GridTensor | None
    device: torch.device

    def rows(self, index: slice | torch.Tensor) -> torch.Tensor:
        """Some of them, in float32."""
        if self.grid is None:
            return self.weight.rows()[index].float()
        here = index if isinstance(index, slice) else index.to(self.grid.q.device)
        return dequantize(GridTensor(self.grid.q[here], self.grid.scale[here], self.grid.bits)).to(self.device)

    def parameter(self) -> nn.Parameter:
        """The whole of it, as its module has it."""
        rows = self.rows(slice(None))
        return nn.Parameter(rows.T if self.weight.transposed else rows, requires_grad=False)


def exact_network(model: ChatModel, *, rounded: bool = False) -> PreTrainedModel:
    """For inference; shares its tensors with ``model``, of which nothing is changed.

    rounded: what a matrix on the grid is multiplied by is rounded to int8 before, as llama.cpp does
    """
    network = sharing(model.network)
    device = device_of(network)
    matrices = {id(w.parameter): _Matrix(w, model.grid.get(w.name), device) for w in weights(network)}
    for module in network.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if (matrix := matrices.get(id(parameter))) is None:
                setattr(module, name, nn.Parameter(parameter.float(), requires_grad=False))
            else:
                if rounded and matrix.grid is not None and not isinstance(module, nn.Embedding):
                    module.register_forward_pre_hook(_round_inputs)
                _compute_with(matrix, module, name, parameter)
        for name, buffer in list(module.named_buffers(recurse=False)):
            if buffer.is_floating_point():
                setattr(module, name, buffer.float())
    return network


def _compute_with(matrix: _Matrix, module: nn.Module, name: str, parameter: nn.Parameter) -> None:
    if isinstance(module, nn.Linear) and parameter.numel() > _AT_ONCE:
        module.forward = partial(_in_parts, matrix, module)  # type: ignore[method-assign]
        return
    if isinstance(module, nn.Embedding):
        module.padding_idx = None  # it says what learns, and is no row of the few that are lent
        module.register_forward_pre_hook(partial(_lend_rows, name, matrix))
    else:
        module.register_forward_pre_hook(partial(_lend, name, matrix))
    module.register_forward_hook(partial(_take_back, name, parameter), always_call=True)


def _round_inputs(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return (round_activations(inputs[0]), *inputs[1:])


def _in_parts(matrix: _Matrix, module: nn.Linear, inputs: torch.Tensor) -> torch.Tensor:
    step = max(1, _AT_ONCE // module.in_features)
    parts = (slice(at, at + step) for at in range(0, module.out_features, step))
    outputs = torch.cat([nn.functional.linear(inputs, matrix.rows(part)) for part in parts], dim=-1)
    return outputs if module.bias is None else outputs + module.bias


def _lend(name: str, matrix: _Matrix, module: nn.Module, _inputs: Any) -> None:
    setattr(module, name, matrix.parameter())


def _lend_rows(name: str, matrix: _Matrix, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
    """The rows of these ids, numbered anew."""
    wanted, ids = torch.unique(inputs[0], return_inverse=True)
    setattr(module, name, nn.Parameter(matrix.rows(wanted), requires_grad=False))
    return (ids,)


def _take_back(name: str, parameter: nn.Parameter, module: nn.Module, _inputs: Any, _outputs: Any) -> None:
    setattr(module, name, parameter)
