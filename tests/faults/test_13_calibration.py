"""Too few different dialogues to calibrate on are refused, with what to type; where they say too little it is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from halfwatt.compress.base import StepContext
from halfwatt.compress.quantize.quantize import Quantize
from halfwatt.models.chat_model import load
from tests.support import taught_students as taught
from tests.support.refusals import refused

TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]


@pytest.mark.parametrize("copies", [1, 64])
def test_one_dialogue_or_one_many_times(copies: int, tmp_path: Path, model: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text(f"{json.dumps({'messages': TURNS})}\n" * copies)
    line: list[str | Path] = ["quantize", model, "--bits", "4", "--method", "gptq", "-d", path, "-o", tmp_path / "out"]
    refused(*line, says=("8 or more different dialogues", "found: 1", "--method rtn"), within=tmp_path)


def test_what_sees_nothing_falls_back_and_is_told(model: Path) -> None:
    """The inputs of a matrix are all zero: no damping makes anything of them."""
    loaded = load(model)
    with torch.no_grad():
        loaded.network.model.layers[1].mlp.up_proj.weight.zero_()
    rounded = Quantize(4, method="gptq").apply(loaded, StepContext(dialogues=tuple(taught.dialogues())))
    told = "model.layers.1.mlp.down_proj.weight: rounded to nearest, its activations span too little"
    assert told in rounded.lineage
