"""What is written for a runtime, and proved there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from halfwatt.compress.base import StepContext
from halfwatt.compress.quantize.quantize import Quantize
from halfwatt.models.chat_model import load
from halfwatt.search.build import export
from tests.support import tiny_models as tiny


@pytest.mark.parametrize(("bits", "power"), [(16, 13), (8, 20)])
def test_what_a_network_computes_beyond_f16_is_multiplied_in_wider_numbers(
    bits: int, power: int, tmp_path: Path
) -> None:
    """llama.cpp makes the inputs of a 16-bit matrix f16, and the scales of those of an int8 one."""
    model = load(tiny.folder(tmp_path))
    with torch.no_grad():
        model.network.model.layers[1].mlp.up_proj.weight.mul_(2.0**power)
    product = model if bits == 16 else Quantize(8).apply(model, StepContext())
    artifact = export(product, tiny.dialogues(), tmp_path / "out")
    assert artifact.parity is not None
    assert artifact.parity.problems == ()
    assert artifact.parity.kl_mean < (1e-4 if bits == 16 else 0.02)
    kept = [(k.tensor, k.kept_as, k.reason) for k in artifact.kept]
    assert kept == [("model.layers.1.mlp.down_proj.weight", "f32", "its inputs leave f16's range")]
