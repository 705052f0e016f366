"""Weights that are not finite, or zero where no block was added to change nothing, are named; nothing is begun."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.support.refusals import refused

QUERIES = "model.layers.0.self_attn.q_proj.weight"


@pytest.mark.parametrize(("value", "why"), [(float("nan"), "NaN"), (float("-inf"), "infinity"), (0.0, "all zero")])
@pytest.mark.parametrize("verb", [["optimize"], ["quantize", "--bits", "8"], ["distil"]], ids=lambda verb: verb[0])
def test_a_damaged_tensor(verb: list[str], value: float, why: str, tmp_path: Path, model: Path, chats: Path) -> None:
    tensors = load_file(model / "model.safetensors")
    if value == 0.0:
        tensors[QUERIES].zero_()
    else:
        tensors[QUERIES][3, 5] = value
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    refused(*verb, model, "-d", chats, "-o", tmp_path / "out", says=(QUERIES, why), within=tmp_path)
