"""Rows that do not divide into groups of 32 stay at 16 bits, and are listed; heads that cannot be shared are told."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support import tiny_models as tiny
from tests.support.command_line import halfwatt
from tests.support.refusals import LENIENT, refused


def test_a_width_that_does_not_divide(tmp_path: Path, chats: Path) -> None:
    odd = tiny.folder(tmp_path / "odd", config={"intermediate_size": 80})
    done = halfwatt("quantize", odd, "--bits", "4", "-d", chats, "-o", tmp_path / "out", "--json", base=LENIENT)
    assert done.returncode == 0, done.stderr
    kept = {k["tensor"]: k for k in json.loads(done.stdout)["kept"]}
    for number in range(2):
        layer = kept[f"model.layers.{number}.mlp.down_proj.weight"]
        assert (layer["kept_as"], layer["reason"]) == ("f16", "its rows of 80 do not divide into groups of 32")
    assert not any("up_proj" in name for name in kept)


def test_heads_that_do_not_divide(tmp_path: Path, model: Path, chats: Path) -> None:
    line: list[str | Path] = ["prune", model, "--kv-heads", "3", "-d", chats, "-o", tmp_path / "out"]
    refused(*line, says=("KV heads",), within=tmp_path)
