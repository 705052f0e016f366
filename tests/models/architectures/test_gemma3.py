"""A row of the contract suite."""

from __future__ import annotations

from typing import ClassVar

from tests.contracts.architectures import ArchitectureContract


class TestGemma3(ArchitectureContract):
    arch = "gemma3_text"
    config: ClassVar = {
        "head_dim": 32,
        "query_pre_attn_scalar": 32,
        "sliding_window": 16,
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        },
    }
    shapes = (
        {"layer_types": ["full_attention", "sliding_attention"], "num_key_value_heads": 1},
        {"layer_types": ["full_attention"] * 2},
        {"layer_types": ["sliding_attention"] * 2},
    )
    refused = (
        ({"hidden_activation": "gelu"}, "gelu_pytorch_tanh"),
        ({"query_pre_attn_scalar": 64}, "query_pre_attn_scalar"),
        ({"final_logit_softcapping": 30.0}, "softcapping"),
        ({"attention_bias": True}, "biases"),
    )
