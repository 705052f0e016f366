"""Tied embeddings stay one through trimming, rounding, saving and reading again: one copy on disk, equal logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from halfwatt.compress.base import StepContext
from halfwatt.compress.quantize.quantize import Quantize
from halfwatt.compress.vocabulary_trim import Trim
from halfwatt.models.chat_model import ChatModel, load
from tests.support import tiny_models as tiny


def stored(folder: Path) -> set[str]:
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return set(file.keys())


@pytest.mark.parametrize("arch", ["llama", "qwen2", "gpt2"])
def test_one_copy(arch: str, tmp_path: Path) -> None:
    model = load(tiny.folder(tmp_path, arch))
    trimmed = Trim(0.5).apply(model, StepContext(dialogues=tiny.dialogues()))
    rounded = Quantize(8).apply(trimmed, StepContext())
    ids = torch.arange(4, 40)[None]

    def logits(some: ChatModel) -> torch.Tensor:
        with torch.inference_mode():
            whole: torch.Tensor = some.network(input_ids=ids).logits
        return whole

    for name, step in (("trimmed", trimmed), ("rounded", rounded)):
        step.save(tmp_path / name)
        again = load(tmp_path / name)
        assert "lm_head.weight" not in stored(tmp_path / name)
        head: Any = again.network.get_output_embeddings()  # type: ignore[no-untyped-call]
        assert head.weight is again.network.get_input_embeddings().weight
        assert torch.equal(logits(again), logits(step)), name
