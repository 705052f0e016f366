"""A row of the contract suite."""

from __future__ import annotations

from tests.contracts.architectures import ArchitectureContract


class TestMistral(ArchitectureContract):
    arch = "mistral"
    rotates_neighbours = True
    shapes = ({"head_dim": 32, "sliding_window": None},)
    refused = (
        ({"hidden_act": "gelu"}, "SiLU"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e4}}, "yarn"),
    )
