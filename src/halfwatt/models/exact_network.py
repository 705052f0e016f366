"""A network that computes in float32, each matrix in float32 only while it is multiplied by or looked up in.

A matrix on the grid is then exactly ``s * q``. What is there beside the model's own tensors is one matrix at a time.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from halfwatt.models.chat_model import ChatModel
from halfwatt.models.grid import GridTensor, dequantize
from halfwatt.models.weights import Weight, device_of, sharing, weights


def exact_network(model: ChatModel) -> PreTrainedModel:
    """For inference; shares its tensors with ``model``, of which nothing is changed."""
    network = sharing(model.network)
    device = device_of(network)
    lent = {id(w.parameter): partial(_float32, w, model.grid.get(w.name), device) for w in weights(network)}
    for module in network.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if (value := lent.get(id(parameter))) is None:
                setattr(module, name, nn.Parameter(parameter.float(), requires_grad=False))
            else:
                module.register_forward_pre_hook(partial(_lend, name, value))
                module.register_forward_hook(partial(_take_back, name, parameter), always_call=True)
        for name, buffer in list(module.named_buffers(recurse=False)):
            if buffer.is_floating_point():
                setattr(module, name, buffer.float())
    return network


def _float32(weight: Weight, grid: GridTensor | None, device: torch.device) -> torch.Tensor:
    rows = weight.rows().float() if grid is None else dequantize(grid).to(device)
    return rows.T if weight.transposed else rows


def _lend(name: str, value: partial[torch.Tensor], module: nn.Module, _inputs: Any) -> None:
    setattr(module, name, nn.Parameter(value(), requires_grad=False))


def _take_back(name: str, parameter: nn.Parameter, module: nn.Module, _inputs: Any, _outputs: Any) -> None:
    setattr(module, name, parameter)
