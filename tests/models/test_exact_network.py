"""A network in float32 whose matrices are there a part at a time says what the whole one says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from halfwatt.compress.base import StepContext
from halfwatt.compress.quantize.quantize import Quantize
from halfwatt.models import exact_network
from halfwatt.models.chat_model import load
from tests.support import tiny_models as tiny

CONTEXT = StepContext(dialogues=tiny.dialogues())


@pytest.mark.parametrize("arch", ["llama", "qwen2", "gpt2", "gemma3_text"])
@pytest.mark.parametrize("tied", [True, False])
def test_parts_of_a_matrix_compute_what_the_whole_computes(
    arch: str, tied: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linear layers with a bias and without, tables that scale their rows, ids that come twice, and the padding id."""
    model = load(tiny.folder(tmp_path, arch, tied=tied, dtype=torch.bfloat16))
    ids = torch.tensor([[5, 6, 5, tiny.PAD, 7], [9, 9, 383, 1, 5]])
    for product in (model, Quantize(4).integers(model, CONTEXT), Quantize(8).apply(model, CONTEXT)):
        with torch.inference_mode():
            whole = exact_network.exact_network(product)(input_ids=ids, use_cache=False).logits
            monkeypatch.setattr(exact_network, "_AT_ONCE", 1000)
            parts = exact_network.exact_network(product)(input_ids=ids, use_cache=False).logits
            monkeypatch.undo()
        assert whole.dtype == parts.dtype == torch.float32
        assert torch.allclose(parts, whole, rtol=1e-5, atol=1e-4)
    network: Any = product.network
    whole_table = network.float()(input_ids=ids, use_cache=False).logits
    assert torch.allclose(whole, whole_table, rtol=1e-5, atol=1e-4), "s * q, as `apply` put it into the network"
