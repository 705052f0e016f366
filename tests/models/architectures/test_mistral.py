"""A row of the contract suite."""

from __future__ import annotations

from tests.contracts.architectures import YARN, ArchitectureContract


class TestMistral(ArchitectureContract):
    arch = "mistral"
    rotates_neighbours = True
    shapes = ({"head_dim": 32, "sliding_window": None}, {"rope_parameters": YARN})
    refused = (
        ({"hidden_act": "gelu"}, "SiLU"),
        ({"rope_parameters": YARN | {"beta_slow": 2.0}}, "beta_slow of 1, not 2"),
    )
