"""LFM2: blocks of gated short convolutions, and between them some that attend, with norms over query and key heads.

A convolution keeps its last inputs, of one size however long the dialogue: the KV cache is that of the others alone.
"""

from __future__ import annotations

from typing import Any

import torch

from halfwatt.models.architectures.base import GgufValue
from halfwatt.models.architectures.llama import LlamaLike

_WIDTH = "LFM2's {} cannot be pruned: llama.cpp takes convolutions and heads to be as wide as the residual stream"


class Lfm2(LlamaLike):
    def problems(self, config: Any) -> list[str]:
        problems = self._unmixed(config)
        if (kind := config.rope_parameters.get("rope_type", "default")) != "default":
            problems.append(f"rope scaling {kind} is not exported to GGUF, only default")
        if config.conv_bias:
            problems.append("llama.cpp's lfm2 has no biases in its convolutions: conv_bias must be false")
        if config.num_attention_heads * self.head_size(config) != config.hidden_size:
            problems.append(f"llama.cpp's lfm2 wants {config.num_attention_heads} heads to share the width evenly")
        return problems

    def config_entries(self, sizes: dict[str, Any]) -> dict[str, Any]:
        return sizes | ({"block_auto_adjust_ff_dim": False} if self.ffn_size in sizes else {})

    def gguf_settings(self, config: Any) -> dict[str, GgufValue]:
        heads = [0 if kind == "conv" else self.kv_heads(config) for kind in self.kinds(config)]
        return super().gguf_settings(config) | {
            "feed_forward_length": _neurons(config),
            "attention.head_count_kv": heads,
            "shortconv.l_cache": config.conv_L_cache,
        }

    def gguf_values(self, name: str, values: torch.Tensor) -> torch.Tensor:
        return values.squeeze(1) if name.endswith("conv.conv.weight") else values


def _neurons(config: Any) -> int:
    """Of each FFN, as transformers' Lfm2MLP takes them from the config."""
    if not config.block_auto_adjust_ff_dim:
        return int(config.intermediate_size)
    two_thirds, multiple = int(2 * config.intermediate_size / 3), int(config.block_multiple_of)
    if config.block_ffn_dim_multiplier is not None:
        two_thirds = int(config.block_ffn_dim_multiplier * two_thirds)
        return -(-two_thirds // multiple) * multiple
    return two_thirds


ARCHITECTURE = Lfm2(
    class_name="Lfm2ForCausalLM",
    model_type="lfm2",
    gguf_name="lfm2",
    reads_gguf=False,
    final_norm_name="embedding_norm",
    ffn_in=("feed_forward.w1", "feed_forward.w3"),
    ffn_out="feed_forward.w2",
    attention_out="self_attn.out_proj",
    other_out=("conv.out_proj",),
    norms=(
        ("operator_norm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "conv.in_proj")),
        ("ffn_norm", ("feed_forward.w1", "feed_forward.w3")),
    ),
    up="feed_forward.w3",
    stateful=("conv",),
    norm_eps="norm_eps",
    rotate_neighbours=(),
    unprunable={"width": _WIDTH.format("width"), "kv_heads": _WIDTH.format("heads")},
)
