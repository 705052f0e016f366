"""Phi-3 and Phi-4-mini: Llama with queries, keys and values in one matrix, gate and up in another.

"longrope" has two sets of factors, which change at ``original_max_position_embeddings``: llama.cpp chooses by the
room of its context, rounded up, transformers by the tokens that are there. So a file's context ends at that length, and
its factors are the short ones under both names. It ends with the sliding window too, which llama.cpp does not have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from halfwatt.models.architectures.base import GgufValue
from halfwatt.models.architectures.llama import LlamaLike

_KINDS = "short", "long"  # of factors
_WIDTH = "Phi-3's {} cannot be pruned: llama.cpp takes the size of its heads from the width"


class Phi3(LlamaLike):
    def problems(self, config: Any) -> list[str]:
        problems = super().problems(config)
        size, rope = self.head_size(config), config.rope_parameters
        if config.num_attention_heads * size != config.hidden_size:
            problems.append(f"llama.cpp's phi3 wants {config.num_attention_heads} heads to share the width evenly")
        factors = rope.get("short_factor")
        if factors and 2 * len(factors) != int(size * rope.get("partial_rotary_factor", 1.0)):
            problems.append(f"longrope's {len(factors)} factors are not for heads of {size}")
        return problems

    def entries_for_4(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """There are three entries of longrope's there, and none for the scale of the attention."""
        rope = config["rope_parameters"]
        if rope.get("rope_type") != "longrope" or "factor" in rope or "attention_factor" in rope:
            return {}
        return {"rope_scaling": {"type": "longrope"} | {f"{kind}_factor": rope[f"{kind}_factor"] for kind in _KINDS}}

    def context_length(self, config: Any) -> int:
        limits = [super().context_length(config), config.sliding_window]
        if self._longrope(config):
            limits.append(config.rope_parameters["original_max_position_embeddings"])
        return min(int(limit) for limit in limits if limit)

    def gguf_settings(self, config: Any) -> dict[str, GgufValue]:
        settings = super().gguf_settings(config)
        if self._longrope(config):
            length = self.context_length(config)
            factor = ROPE_INIT_FUNCTIONS["longrope"](config, torch.device("cpu"), seq_len=length)[1]
            settings["rope.scaling.attn_factor"] = float(factor)
            settings["rope.scaling.original_context_length"] = length
        return settings

    def gguf_tensors(self, config: Any) -> dict[str, torch.Tensor]:
        """[rotated values of a head / 2] each: what rotation frequencies are divided by."""
        if not self._longrope(config):
            return {}
        factors = torch.tensor(config.rope_parameters["short_factor"])
        return {f"rope_factors_{kind}.weight": factors for kind in _KINDS}

    def _longrope(self, config: Any) -> bool:
        return bool(config.rope_parameters.get("rope_type") == "longrope")


ARCHITECTURE = Phi3(
    class_name="Phi3ForCausalLM",
    model_type="phi3",
    gguf_name="phi3",
    reads_gguf=False,
    ffn_in=("mlp.gate_up_proj",),
    queries=None,
    keys_values=(),
    norms=(
        ("input_layernorm", ("self_attn.qkv_proj",)),
        ("post_attention_layernorm", ("mlp.gate_up_proj",)),
    ),
    up=None,
    rope_types=("default", "longrope"),
    rotate_neighbours=(),
    windows=True,
    partial=True,
    unprunable={"width": _WIDTH.format("width"), "kv_heads": _WIDTH.format("heads")},
)
