"""More tokens than embeddings: exit 2 with both numbers."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.refusals import refused


def test_added_tokens_past_the_embedding(tmp_path: Path, model: Path, chats: Path) -> None:
    described = json.loads((model / "tokenizer.json").read_text())
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    described["added_tokens"] += [{"id": 384 + n, "content": f"<|more{n}|>", **flags} for n in range(3)]
    (model / "tokenizer.json").write_text(json.dumps(described))
    line: list[str | Path] = ["quantize", model, "--bits", "8", "-d", chats, "-o", tmp_path / "out"]
    refused(*line, says=("387 tokens, 384 embeddings",), within=tmp_path)
