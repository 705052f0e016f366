"""A row of the contract suite."""

from __future__ import annotations

from tests.contracts.architectures import ArchitectureContract


class TestLlama(ArchitectureContract):
    arch = "llama"
    rotates_neighbours = True
    shapes = ({"attention_bias": True, "mlp_bias": True}, {"head_dim": 32}, {"num_key_value_heads": 1})
    refused = (
        ({"hidden_act": "gelu"}, "SiLU"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e4}}, "yarn"),
    )
