"""Code in a model's folder is never imported, and nothing in the house asks for it."""

from __future__ import annotations

import json
from pathlib import Path

import halfwatt as package
from tests.support.command_line import halfwatt
from tests.support.refusals import LENIENT, refused


def test_what_auto_map_names_is_not_run(tmp_path: Path, model: Path, chats: Path) -> None:
    marker = tmp_path / "ran"
    (model / "own.py").write_text(f"import pathlib\npathlib.Path({str(marker)!r}).touch()\nclass Own: ...\n")
    named = {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own", "AutoTokenizer": ["own.Own", "own.Own"]}
    for name in ("config.json", "tokenizer_config.json"):
        entries = json.loads((model / name).read_text()) | {"auto_map": named}
        (model / name).write_text(json.dumps(entries))
    done = halfwatt("quantize", model, "--bits", "8", "-d", chats, "-o", tmp_path / "out", base=LENIENT)
    assert done.returncode == 0, done.stderr
    config = json.loads((model / "config.json").read_text()) | {"architectures": ["Own"], "model_type": "own"}
    (model / "config.json").write_text(json.dumps(config))
    refused("quantize", model, "--bits", "8", "-d", chats, "-o", tmp_path / "b", says=("Own",), within=tmp_path)
    assert not marker.exists()


def test_nobody_asks_for_it() -> None:
    asked = "trust_remote_code" + "=True"
    sources = list(Path(package.__file__).parent.rglob("*.py"))
    assert len(sources) > 50
    assert [path for path in sources if asked in path.read_text().replace(" ", "")] == []
