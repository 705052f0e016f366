"""A row of the contract suite."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from halfwatt.compress.base import StepContext
from halfwatt.compress.quantize.quantize import Quantize
from halfwatt.models.chat_model import load
from tests.contracts.architectures import ArchitectureContract
from tests.support import tiny_models as tiny


class TestGpt2(ArchitectureContract):
    arch = "gpt2"
    unprunable: ClassVar = {"width": "GPT-2's width", "kv_heads": "GPT-2's heads"}
    refused = (
        ({"activation_function": "relu"}, "relu"),
        ({"scale_attn_by_inverse_layer_idx": True}, "plain attention"),
    )

    def test_learned_positions_stay_at_16_bits(self, tmp_path: Path) -> None:
        quantized = Quantize(8).apply(load(tiny.folder(tmp_path, "gpt2")), StepContext())
        assert ("transformer.wpe.weight", "16 bits") in [(k.tensor, k.kept_as) for k in quantized.kept]
