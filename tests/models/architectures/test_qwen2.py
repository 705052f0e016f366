"""A row of the contract suite."""

from __future__ import annotations

from tests.contracts.architectures import YARN, ArchitectureContract


class TestQwen2(ArchitectureContract):
    arch = "qwen2"
    shapes = ({"head_dim": 32}, {"num_key_value_heads": 1}, {"rope_parameters": YARN})
    refused = (
        ({"rope_parameters": YARN | {"rope_type": "dynamic"}}, "dynamic"),
        (
            {"use_sliding_window": True, "sliding_window": 64, "layer_types": ["sliding_attention"] * 2},
            "sliding window",
        ),
    )
