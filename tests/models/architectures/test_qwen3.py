"""A row of the contract suite."""

from __future__ import annotations

from tests.contracts.architectures import ArchitectureContract


class TestQwen3(ArchitectureContract):
    arch = "qwen3"
    shapes = ({"head_dim": 32},)
    refused = (
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e4}}, "yarn"),
        ({"attention_bias": True}, "attention_bias"),
    )
