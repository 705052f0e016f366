"""A row of the contract suite."""

from __future__ import annotations

from typing import ClassVar

from tests.contracts.architectures import YARN, ArchitectureContract


class TestSmolLM3(ArchitectureContract):
    arch = "smollm3"
    config: ClassVar = {"no_rope_layers": [1, 1]}
    rotates_neighbours = True
    unprunable: ClassVar = {"blocks": "every fourth"}
    shapes = (
        {"num_hidden_layers": 4, "no_rope_layers": [1, 1, 1, 0]},
        {"num_key_value_heads": 1},
        {"rope_parameters": YARN},
    )
    refused = (
        ({"no_rope_layers": [1, 0]}, "every fourth"),
        ({"attention_bias": True}, "attention_bias"),
        (
            {"use_sliding_window": True, "sliding_window": 64, "layer_types": ["sliding_attention"] * 2},
            "sliding window",
        ),
    )
