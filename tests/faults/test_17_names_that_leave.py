"""Names of files that lead out of the model's folder are refused before anything is opened."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.refusals import refused


@pytest.mark.parametrize("name", ["../outside.safetensors", "{outside}", "sub/../../outside.safetensors", "link"])
def test_it_is_not_opened(name: str, tmp_path: Path, model: Path, chats: Path) -> None:
    outside = tmp_path / "outside.safetensors"
    (model / "model.safetensors").rename(outside)
    if name == "link":
        (model / "model.safetensors").symlink_to(outside)
    else:
        shard = name.replace("{outside}", str(outside))
        named = {"metadata": {}, "weight_map": {"model.embed_tokens.weight": shard}}
        (model / "model.safetensors.index.json").write_text(json.dumps(named))
    line: list[str | Path] = ["quantize", model, "--bits", "8", "-d", chats, "-o", tmp_path / "out"]
    says = "is a link that leaves the folder" if name == "link" else "names a file outside itself"
    refused(*line, says=(says,), within=tmp_path)
