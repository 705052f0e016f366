"""A row of the contract suite."""

from __future__ import annotations

from tests.contracts.architectures import YARN, ArchitectureContract


class TestQwen3(ArchitectureContract):
    arch = "qwen3"
    shapes = ({"head_dim": 32}, {"rope_parameters": YARN})
    refused = (
        ({"rope_parameters": YARN | {"factor": 0.5}}, "above 1"),
        ({"attention_bias": True}, "attention_bias"),
    )
