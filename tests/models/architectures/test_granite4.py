"""A row of the contract suite."""

from __future__ import annotations

from typing import ClassVar

from halfwatt.models.grid import GridTensor
from tests.contracts.architectures import ArchitectureContract


class TestGranite4(ArchitectureContract):
    arch = "granitemoehybrid"
    config: ClassVar = {
        "num_local_experts": 0,
        "num_experts_per_tok": 0,
        "layer_types": ["full_attention"] * 2,
        "position_embedding_type": "rope",
        "shared_intermediate_size": 192,
        "mamba_n_heads": 4,
        "embedding_multiplier": 3.0,
        "attention_multiplier": 0.125,
        "residual_multiplier": 0.5,
        "logits_scaling": 2.0,
    }
    rotates_neighbours = True
    shapes = ({"position_embedding_type": None}, {"attention_bias": True, "num_key_value_heads": 1})
    refused = (
        ({"hidden_act": "gelu"}, "SiLU"),
        ({"num_local_experts": 4, "num_experts_per_tok": 2}, "4 experts"),
        ({"layer_types": ["linear_attention", "full_attention"]}, "1 Mamba blocks"),
    )

    def stored(self, module: str, grid: GridTensor) -> dict[str, GridTensor]:
        block, _, name = module.partition("shared_mlp.")
        if name == "output_linear":
            return {f"{block}mlp.down_proj": grid}
        if name != "input_linear":
            return super().stored(module, grid)
        gate, up = slice(0, len(grid.q) // 2), slice(len(grid.q) // 2, None)
        return {
            f"{block}mlp.gate_proj": GridTensor(grid.q[gate], grid.scale[gate], grid.bits),
            f"{block}mlp.up_proj": GridTensor(grid.q[up], grid.scale[up], grid.bits),
        }
