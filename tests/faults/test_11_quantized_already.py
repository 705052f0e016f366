"""A folder that was quantized by another tool is recognised and refused; a rounded GGUF keeps its integers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from halfwatt.core.settings import Access
from halfwatt.formats.gguf import Gguf
from tests.support.command_line import halfwatt
from tests.support.refusals import LENIENT, refused


@pytest.mark.parametrize("method", ["gptq", "awq", "compressed-tensors", "bitsandbytes"])
def test_a_folder(method: str, tmp_path: Path, model: Path, chats: Path) -> None:
    config = json.loads((model / "config.json").read_text()) | {"quantization_config": {"quant_method": method}}
    (model / "config.json").write_text(json.dumps(config))
    line: list[str | Path] = ["quantize", model, "--bits", "4", "-d", chats, "-o", tmp_path / "out"]
    refused(*line, says=("quantized already", f"quant_method {method}"), within=tmp_path)


def test_a_file_on_our_grid(tmp_path: Path, model: Path, chats: Path) -> None:
    assert halfwatt("quantize", model, "--bits", "4", "-d", chats, "-o", tmp_path / "a", base=LENIENT).returncode == 0
    file = tmp_path / "a" / "model.gguf"
    assert halfwatt("quantize", file, "--bits", "4", "-d", chats, "-o", tmp_path / "b", base=LENIENT).returncode == 0
    first, second = (Gguf().read(tmp_path / name, Access()).given for name in ("a", "b"))
    assert set(first) == set(second)
    assert all(first[name].q.equal(second[name].q) for name in first)
