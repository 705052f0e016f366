"""The repeated blocks of a decoder: where they are, what they are made of, and a network rebuilt from changed weights.

llama, mistral, qwen2, qwen3    base.layers[i]   self_attn.{q,k,v,o}_proj    mlp.{gate,up,down}_proj
gpt2                            base.h[i]        attn.c_attn, attn.c_proj    mlp.c_fc, mlp.c_proj   (weights [in, out])
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D


def final_norm(network: PreTrainedModel) -> nn.Module:
    """The norm between the last block and the head."""
    base: Any = network.base_model
    found: nn.Module = base.ln_f if hasattr(base, "ln_f") else base.norm
    return found


_INDEX = re.compile(r"^(.*\.(?:layers|h)\.)(\d+)(\..*)$")


@dataclass(frozen=True, slots=True)
class Parts:
    """Names inside a block. Rows of ``ffn_in`` are neurons, columns of ``ffn_out`` likewise."""

    ffn_in: tuple[str, ...]
    ffn_out: str
    queries: str | None  # None: query, key and value are one matrix, whose heads cannot be counted apart
    keys_values: tuple[str, ...]
    attention_out: str
    norms: tuple[tuple[str, tuple[str, ...]], ...]  # each norm, and what alone reads its outputs
    up: str | None  # a matrix whose outputs reach ffn_out multiplied by a gate and nothing else
    ffn_size: str  # the config's entry for the number of neurons
    transposed: bool  # weights are stored [in, out]


GATED = Parts(
    ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.down_proj",
    "self_attn.q_proj",
    ("self_attn.k_proj", "self_attn.v_proj"),
    "self_attn.o_proj",
    norms=(
        ("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
        ("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj")),
    ),
    up="mlp.up_proj",
    ffn_size="intermediate_size",
    transposed=False,
)

GPT2 = Parts(
    ("mlp.c_fc",),
    "mlp.c_proj",
    None,
    (),
    "attn.c_proj",
    norms=(("ln_1", ("attn.c_attn",)), ("ln_2", ("mlp.c_fc",))),
    up=None,
    ffn_size="n_inner",
    transposed=True,
)


def parts_of(network: PreTrainedModel) -> Parts:
    """The names of this architecture."""
    return GPT2 if network.config.model_type == "gpt2" else GATED


def blocks_of(network: PreTrainedModel) -> nn.ModuleList:
    """The blocks, first to last; the very list that the network runs through."""
    base: Any = network.base_model
    found: nn.ModuleList = base.h if hasattr(base, "h") else base.layers
    return found


def set_blocks(network: PreTrainedModel, blocks: list[nn.Module]) -> None:
    """Let the network run through these blocks, in place. For passes without a cache: indices stay as they were."""
    base: Any = network.base_model
    setattr(base, "h" if hasattr(base, "h") else "layers", nn.ModuleList(blocks))


def head_size(config: Any) -> int:
    """Values of one attention head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def columns(module: nn.Module) -> int:
    """Inputs of a Linear or of GPT-2's Conv1D."""
    weight: Any = module.weight
    return int(weight.shape[0] if isinstance(module, Conv1D) else weight.shape[1])


def without_blocks(state: Mapping[str, torch.Tensor], gone: set[int]) -> dict[str, torch.Tensor]:
    """A state dict without some blocks, those after them renumbered."""
    made: dict[str, torch.Tensor] = {}
    for name, value in state.items():
        found = _INDEX.match(name)
        if found is None:
            made[name] = value
        elif int(found[2]) not in gone:
            index = int(found[2]) - sum(g < int(found[2]) for g in gone)
            made[f"{found[1]}{index}{found[3]}"] = value
    return made


def sliced(
    state: Mapping[str, torch.Tensor], block: int, module: str, keep: torch.Tensor, *, rows: bool, transposed: bool
) -> dict[str, torch.Tensor]:
    """The entries of one module with some of its outputs (``rows``, biases with them) or inputs kept.

    keep: int64, their numbers, in order
    """
    made = {}
    for name, value in state.items():
        found = _INDEX.match(name)
        if found is None or int(found[2]) != block or not found[3].startswith(f".{module}."):
            continue
        if found[3].endswith(".bias"):
            made[name] = value[keep] if rows else value
        else:
            made[name] = value.index_select(0 if rows != transposed else 1, keep)
    return made


def rebuilt(network: PreTrainedModel, changes: Mapping[str, Any], state: Mapping[str, torch.Tensor]) -> PreTrainedModel:
    """A float32 network of the same class with other sizes and these weights; tied ones stay tied.

    changes: entries of its config
    """
    made: Any = resized(network, changes)
    made.load_state_dict({k: v.float() for k, v in state.items()}, strict=True)
    result: PreTrainedModel = made
    return result


def resized(network: PreTrainedModel, changes: Mapping[str, Any]) -> PreTrainedModel:
    """A float32 network of the same class with other sizes and random weights.

    changes: entries of its config; where blocks have kinds, those of the first ones stay unless given
    """
    config = copy.deepcopy(network.config)
    for name, value in changes.items():
        setattr(config, name, value)
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        config.layer_types = kinds[: config.num_hidden_layers]
    made: Any = type(network)(config)
    made = made.float()
    made.generation_config = copy.deepcopy(network.generation_config)
    result: PreTrainedModel = made.eval()
    return result
