"""State dicts with parts cut out, and a network rebuilt from them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedModel


def without_blocks(state: Mapping[str, torch.Tensor], prefix: str, gone: set[int]) -> dict[str, torch.Tensor]:
    """A state dict without some blocks, those after them renumbered. prefix: of their names, before the number."""
    cut: dict[str, torch.Tensor] = {}
    for name, value in state.items():
        number, _, rest = name.removeprefix(prefix).partition(".")
        if not name.startswith(prefix):
            cut[name] = value
        elif int(number) not in gone:
            cut[f"{prefix}{int(number) - sum(g < int(number) for g in gone)}.{rest}"] = value
    return cut


def sliced(
    state: Mapping[str, torch.Tensor], module: str, keep: torch.Tensor, *, rows: bool, transposed: bool
) -> dict[str, torch.Tensor]:
    """The entries of one module with some of its outputs (``rows``, biases with them) or inputs kept.

    keep: int64, their numbers, in order
    """
    axis = 0 if rows != transposed else 1
    weight, bias = f"{module}.weight", f"{module}.bias"
    cut = {bias: state[bias][keep] if rows else state[bias]} if bias in state else {}
    return {weight: state[weight].index_select(axis, keep)} | cut


def rebuilt(network: PreTrainedModel, changes: Mapping[str, Any], state: Mapping[str, torch.Tensor]) -> PreTrainedModel:
    """A network as of `resized` with these weights; tied ones stay tied."""
    other = resized(network, changes)
    other.load_state_dict({k: v.float() for k, v in state.items()}, strict=True)
    return other


def resized(network: PreTrainedModel, changes: Mapping[str, Any]) -> PreTrainedModel:
    """A float32 network of the same class with random weights and other sizes, see `resized_config`."""
    cls: Any = type(network)
    other: PreTrainedModel = cls(resized_config(network.config, changes)).float().eval()
    other.generation_config = copy.deepcopy(network.generation_config)
    return other


def resized_config(config: Any, changes: Mapping[str, Any]) -> Any:
    """A copy with ``changes`` in its entries. Where blocks have kinds, those of the first ones stay unless given."""
    other = copy.deepcopy(config)
    for name, value in changes.items():
        setattr(other, name, value)
    if (kinds := getattr(other, "layer_types", None)) is not None:
        other.layer_types = kinds[: other.num_hidden_layers]
    return other
