"""What is no decoder of a family that is known is named at once, and what is known with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.refusals import refused


@pytest.mark.parametrize(
    ("class_name", "model_type"),
    [
        ("T5ForConditionalGeneration", "t5"),
        ("BartForConditionalGeneration", "bart"),
        ("MixtralForCausalLM", "mixtral"),
        ("MambaForCausalLM", "mamba"),
    ],
)
def test_it_is_named(class_name: str, model_type: str, tmp_path: Path, model: Path, chats: Path) -> None:
    (model / "config.json").write_text(json.dumps({"architectures": [class_name], "model_type": model_type}))
    line: list[str | Path] = ["quantize", model, "--bits", "8", "-d", chats, "-o", tmp_path / "out"]
    refused(*line, says=(class_name, "supported are", "LlamaForCausalLM"), within=tmp_path)
