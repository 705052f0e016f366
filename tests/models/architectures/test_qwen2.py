"""A row of the contract suite."""

from __future__ import annotations

from tests.contracts.architectures import ArchitectureContract


class TestQwen2(ArchitectureContract):
    arch = "qwen2"
    shapes = ({"head_dim": 32}, {"num_key_value_heads": 1})
    refused = (
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e4}}, "yarn"),
        (
            {"use_sliding_window": True, "sliding_window": 64, "layer_types": ["sliding_attention"] * 2},
            "sliding window",
        ),
    )
