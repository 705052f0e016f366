"""A row of the contract suite."""

from __future__ import annotations

from typing import ClassVar

from tests.contracts.architectures import ArchitectureContract


class TestLfm2(ArchitectureContract):
    arch = "lfm2"
    config: ClassVar = {
        "num_hidden_layers": 3,
        "layer_types": ["conv", "full_attention", "conv"],
        "block_multiple_of": 32,
    }
    unprunable: ClassVar = {"width": "LFM2's width", "kv_heads": "LFM2's heads", "student": "both kinds"}
    shapes = (
        {"layer_types": ["full_attention", "full_attention", "conv"], "conv_L_cache": 4},
        {"block_auto_adjust_ff_dim": False},
        {"block_ffn_dim_multiplier": 2.0},
    )
    refused = (
        ({"layer_types": ["conv"] * 3}, "both kinds"),
        ({"conv_bias": True}, "conv_bias"),
    )
