"""A row of the contract suite."""

from __future__ import annotations

from typing import ClassVar

from tests.contracts.architectures import ArchitectureContract


class TestGpt2(ArchitectureContract):
    arch = "gpt2"
    unprunable: ClassVar = {"width": "GPT-2's width", "kv_heads": "GPT-2's heads"}
    refused = (
        ({"activation_function": "relu"}, "relu"),
        ({"scale_attn_by_inverse_layer_idx": True}, "plain attention"),
    )
