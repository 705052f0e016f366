"""Gemma 3's text model: norms around both halves of a block and over each query and key head, 1 added to their weights.

Most blocks see a window of the context and rotate positions on a base of their own. The embedding is multiplied by the
root of the width. The KV cache is counted whole: llama.cpp keeps the past beyond a window too, so that a prefix can be
taken back (``swa_full``, its default); in dialogues longer than the window less of it is read than we say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from halfwatt.models.architectures.base import GgufValue
from halfwatt.models.architectures.llama import LlamaLike

_EVERY = 6  # of so many blocks one sees all of the context, where a file says nothing else


class Gemma3(LlamaLike):
    def problems(self, config: Any) -> list[str]:
        problems = []
        if config.hidden_activation != "gelu_pytorch_tanh":
            problems.append(f"llama.cpp's gemma3 computes gelu_pytorch_tanh, not {config.hidden_activation}")
        ropes = config.rope_parameters
        kinds = {"full_attention": ("default", "linear"), "sliding_attention": ("default",)}
        for kind, known in kinds.items():
            if (scaling := ropes[kind].get("rope_type", "default")) not in known:
                problems.append(f"rope scaling {scaling} of {kind} is not exported to GGUF, only {', '.join(known)}")
        largest = config.num_hidden_layers == 62  # llama.cpp knows the 27B model by it
        size = config.hidden_size // config.num_attention_heads if largest else self.head_size(config)
        if config.query_pre_attn_scalar != size:
            problems.append(f"llama.cpp's gemma3 divides attention by the root of {size}, not query_pre_attn_scalar")
        if config.attn_logit_softcapping or config.final_logit_softcapping:
            problems.append("Gemma 3 caps no logits: softcapping must be null")
        if config.attention_bias or config.use_bidirectional_attention:
            problems.append("llama.cpp's gemma3 has no biases in its attention, and looks back only")
        return problems

    def gguf_settings(self, config: Any) -> dict[str, GgufValue]:
        full, sliding = (config.rope_parameters[kind] for kind in ("full_attention", "sliding_attention"))
        slides = [kind == "sliding_attention" for kind in self.kinds(config)]
        windows: dict[str, GgufValue] = {
            "attention.sliding_window": int(config.sliding_window),
            "attention.sliding_window_pattern": slides,
            "rope.freq_base_swa": float(sliding["rope_theta"]),
        }
        return self._settings(config, full) | (windows if any(slides) else {})

    def gguf_config(
        self, name: str, keys: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]
    ) -> dict[str, Any] | None:
        if (entries := super().gguf_config(name, keys, tensors)) is None:
            return None
        blocks, sliding = range(keys["block_count"]), {"rope_type": "default", "rope_theta": 1e4}
        sliding["rope_theta"] = keys.get("rope.freq_base_swa", sliding["rope_theta"])
        slides = keys.get("attention.sliding_window_pattern", [(number + 1) % _EVERY != 0 for number in blocks])
        if "attention.sliding_window" not in keys:
            slides = [False for _ in blocks]
        return entries | {
            "hidden_activation": "gelu_pytorch_tanh",
            "query_pre_attn_scalar": entries["head_dim"],
            "sliding_window": keys.get("attention.sliding_window", keys["context_length"]),
            "layer_types": ["sliding_attention" if slide else "full_attention" for slide in slides],
            "rope_parameters": {"full_attention": entries["rope_parameters"], "sliding_attention": sliding},
        }


ARCHITECTURE = Gemma3(
    class_name="Gemma3ForCausalLM",
    model_type="gemma3_text",
    gguf_name="gemma3",
    norms=(
        ("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
        ("pre_feedforward_layernorm", ("mlp.gate_proj", "mlp.up_proj")),
    ),
    post_norms=("post_attention_layernorm", "post_feedforward_layernorm"),
    norm_offset=1.0,
    rotate_neighbours=(),
)
