"""GPT-2: plain FFN, one matrix for query, key and value, learned positions; weights stored [in, out] (Conv1D)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from halfwatt.models.architectures.base import Architecture, GgufValue


class Gpt2(Architecture):
    def problems(self, config: Any) -> list[str]:
        problems = []
        if config.activation_function not in ("gelu_new", "gelu_pytorch_tanh"):
            problems.append(f"llama.cpp's gpt2 computes gelu_new, not {config.activation_function}")
        if config.scale_attn_by_inverse_layer_idx or not config.scale_attn_weights or config.add_cross_attention:
            problems.append("llama.cpp's gpt2 has plain attention only, no other scaling and no cross-attention")
        return problems

    def gguf_settings(self, config: Any) -> dict[str, GgufValue]:
        return super().gguf_settings(config) | {
            "feed_forward_length": config.n_inner or 4 * config.n_embd,
            "attention.layer_norm_epsilon": float(config.layer_norm_epsilon),
        }

    def gguf_config(
        self, name: str, keys: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]
    ) -> dict[str, Any] | None:
        if (entries := super().gguf_config(name, keys, tensors)) is None:
            return None
        own = {"n_inner": keys["feed_forward_length"], "layer_norm_epsilon": keys["attention.layer_norm_epsilon"]}
        return entries | own


ARCHITECTURE = Gpt2(
    class_name="GPT2LMHeadModel",
    model_type="gpt2",
    gguf_name="gpt2",
    blocks_name="h",
    final_norm_name="ln_f",
    ffn_in=("mlp.c_fc",),
    ffn_out="mlp.c_proj",
    queries=None,
    keys_values=(),
    attention_out="attn.c_proj",
    norms=(("ln_1", ("attn.c_attn",)), ("ln_2", ("mlp.c_fc",))),
    up=None,
    ffn_size="n_inner",
    transposed=True,
    unprunable={
        "width": "GPT-2's width cannot be pruned: every loader takes the size of its heads from it",
        "kv_heads": "GPT-2's heads are fixed: as many KV heads as query heads, of a size taken from the width",
    },
)
