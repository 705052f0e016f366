"""An empty file, or one of which nothing is left, is told before the model is looked at."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.refusals import refused

VERBS = (["optimize"], ["measure"], ["quantize", "--bits", "8"], ["prune", "--drop", "1"], ["trim"], ["distil"])


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb[0])
def test_an_empty_file(verb: list[str], tmp_path: Path) -> None:
    (tmp_path / "no-model").mkdir()
    (tmp_path / "none.jsonl").write_text("\n")
    out: list[str | Path] = [] if verb == ["measure"] else ["-o", tmp_path / "out"]
    refused(
        *verb,
        tmp_path / "no-model",
        "-d",
        tmp_path / "none.jsonl",
        *out,
        says=("none.jsonl is empty",),
        within=tmp_path,
    )


def test_rows_of_which_none_is_left(tmp_path: Path, model: Path) -> None:
    reply = {"role": "assistant", "content": "Hello!", "weight": 0}
    row = json.dumps({"messages": [{"role": "user", "content": "Hi"}, reply]})
    (tmp_path / "d.jsonl").write_text(f"{row}\n" * 3)
    line = refused("measure", model, "-d", tmp_path / "d.jsonl", says=("3 of 3 rows",), within=tmp_path)
    assert "d.jsonl:1" in line
