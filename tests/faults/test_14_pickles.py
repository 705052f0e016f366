"""Weights in a pickle are refused, and the pickle is never opened."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

from tests.support.refusals import refused


class Payload:
    """Says that it was opened."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.marker),)


def test_the_marker_is_not_made(tmp_path: Path, model: Path, chats: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(tmp_path / "opened")))
    line: list[str | Path] = ["quantize", model, "--bits", "8", "-d", chats, "-o", tmp_path / "out"]
    refused(*line, says=("only as pickles", "pytorch_model.bin"), within=tmp_path)
    assert not (tmp_path / "opened").exists()
