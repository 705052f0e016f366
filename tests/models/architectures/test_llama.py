"""A row of the contract suite."""

from __future__ import annotations

from tests.contracts.architectures import YARN, ArchitectureContract


class TestLlama(ArchitectureContract):
    arch = "llama"
    rotates_neighbours = True
    shapes = (
        {"attention_bias": True, "mlp_bias": True},
        {"head_dim": 32},
        {"num_key_value_heads": 1},
        {"rope_parameters": YARN},
        {"rope_parameters": YARN | {"attention_factor": 1.5}},
        {"rope_parameters": YARN | {"mscale": 0.7, "mscale_all_dim": 0.3}},
    )
    refused = (
        ({"hidden_act": "gelu"}, "SiLU"),
        ({"rope_parameters": YARN | {"beta_fast": 16.0}}, "beta_fast of 32, not 16"),
        ({"rope_parameters": YARN | {"truncate": False}}, "truncated"),
    )
