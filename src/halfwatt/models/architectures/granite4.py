"""Granite 4's dense form: Granite with gate and up in one matrix, and positions rotated or not at all.

transformers has it as a mixture of experts and Mamba blocks that has neither; what has some is refused. llama.cpp
computes it as "granite".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from halfwatt.models.architectures.base import GgufValue, Placement
from halfwatt.models.architectures.granite import Granite


class Granite4(Granite):
    def problems(self, config: Any) -> list[str]:
        problems = super().problems(config)
        if config.num_local_experts:
            problems.append(f"a mixture of {config.num_local_experts} experts is not supported, only dense Granite 4")
        if mamba := self.kinds(config).count("linear_attention"):
            problems.append(f"{mamba} Mamba blocks are not supported, only Granite 4 with attention in all blocks")
        return problems

    def config_entries(self, sizes: dict[str, Any]) -> dict[str, Any]:
        """The config wants Mamba's sizes to go with the width, though there are no such blocks."""
        width = sizes.get("hidden_size")
        return sizes | ({} if width is None else {"mamba_expand": 1, "mamba_n_heads": 1, "mamba_d_head": width})

    def entries_for_4(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """5 calls a block "full_attention", and reads the name of before as well."""
        return {"layer_types": ["attention"] * config["num_hidden_layers"]}

    def gguf_settings(self, config: Any) -> dict[str, GgufValue]:
        return super().gguf_settings(config) | {"rope.scaling.finetuned": config.position_embedding_type == "rope"}

    def gguf_placements(self, config: Any, name: str, shape: torch.Size) -> tuple[Placement, ...]:
        if name.endswith("shared_mlp.output_linear.weight"):
            return (Placement(name.replace("shared_mlp.output_linear", "mlp.down_proj")),)
        if not name.endswith("shared_mlp.input_linear.weight"):
            return super().gguf_placements(config, name, shape)
        halves = torch.arange(shape[0]).chunk(2)
        parts = zip(("mlp.gate_proj", "mlp.up_proj"), halves, strict=True)
        return tuple(Placement(name.replace("shared_mlp.input_linear", part), rows) for part, rows in parts)


ARCHITECTURE = Granite4(
    class_name="GraniteMoeHybridForCausalLM",
    model_type="granitemoehybrid",
    gguf_name="granite",
    reads_gguf=False,
    ffn_in=("shared_mlp.input_linear",),
    ffn_out="shared_mlp.output_linear",
    norms=(
        ("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
        ("post_attention_layernorm", ("shared_mlp.input_linear",)),
    ),
    up=None,
    ffn_size="shared_intermediate_size",
    rotate_neighbours=("granite",),
)
