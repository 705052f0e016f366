"""A row of the contract suite."""

from __future__ import annotations

from typing import ClassVar

from tests.contracts.architectures import ArchitectureContract


class TestGranite(ArchitectureContract):
    arch = "granite"
    config: ClassVar = {
        "embedding_multiplier": 3.0,
        "attention_multiplier": 0.125,
        "residual_multiplier": 0.5,
        "logits_scaling": 2.0,
    }
    rotates_neighbours = True
    shapes = (
        {"attention_bias": True, "mlp_bias": True},
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        },
    )
    refused = (({"hidden_act": "gelu"}, "SiLU"),)
