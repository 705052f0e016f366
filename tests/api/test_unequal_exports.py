"""What is exported and is not its model is never handed on: whatever verb exports, it says so and leaves nothing."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from halfwatt.evaluate import examine
from halfwatt.formats.gguf import Gguf
from halfwatt.models.chat_model import ChatModel, load
from halfwatt.runtimes.base import OperatingPoint
from halfwatt.runtimes.serving_process import ServingProcess, ServingSpec
from tests.support import taught_students as taught
from tests.support import tiny_models as tiny
from tests.support.command_line import halfwatt

BEYOND = 2.0**20  # times the values that attention keeps: llama.cpp's cache has 16-bit floats, whatever the file has


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that says in llama.cpp what is not a number, and no way of writing it helps."""
    model = load(tiny.folder(tmp_path_factory.mktemp("from"), "llama"))
    with torch.no_grad():
        for layer in model.network.model.layers:
            layer.self_attn.v_proj.weight.mul_(BEYOND)
    into = tmp_path_factory.mktemp("beyond") / "model"
    model.save(into)
    return into


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    return taught.chats(tmp_path, taught.dialogues()[:8])


Line = Callable[[Path, Path, Path], list[str | Path]]
LINES: dict[str, Line] = {
    "quantize": lambda model, chats, out: ["quantize", model, "--bits", "8", "-d", chats, "-o", out],
    "measure": lambda model, chats, _: ["measure", model, "-d", chats, "--runtime", "llamacpp"],
    "compare": lambda model, chats, _: ["compare", model, model, "-d", chats, "--runtime", "llamacpp"],
    "chat": lambda model, *_: ["chat", model, "--runtime", "llamacpp"],
}


@pytest.mark.parametrize("verb", LINES)
def test_every_verb_that_exports_reads_the_proof(
    folder: Path, chats: Path, tmp_path: Path, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Is door 3 open?\n\n"))
    before = set(tmp_path.iterdir())
    done = halfwatt(*LINES[verb](folder, chats, tmp_path / "out"))
    assert done.returncode == 1, done.stderr
    assert "is not the model that it was exported from" in done.stderr
    assert "not finite" in done.stderr
    assert len(done.stderr.strip().splitlines()[-1:]) == 1
    assert set(tmp_path.iterdir()) == before, "nothing is left"


def test_a_stored_artifact_says_itself_that_it_is_another_model(tmp_path: Path, chats: Path) -> None:
    """As written by whoever did not look."""
    out, sound = tmp_path / "int8", taught.folder(tmp_path, "llama", taught.dialogues())
    assert halfwatt("quantize", sound, "--bits", "8", "-d", chats, "-o", out).returncode == 0
    record = out / "artifact.json"
    text = record.read_text()
    assert '"finite": true' in text
    record.write_text(text.replace('"finite": true', '"finite": false'))
    done = halfwatt("measure", out, "-d", chats)
    assert (done.returncode, "is not the model" in done.stderr) == (1, True)


@pytest.fixture
def model(tmp_path: Path) -> ChatModel:
    return load(tiny.folder(tmp_path, "llama"))


def test_a_text_that_ends_the_runtimes_own_tokenizer_ends_nothing_else(
    model: ChatModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ends(ServingProcess):
        def tokenize(self, text: str) -> list[int]:
            self.process.kill()
            return super().tokenize(text)

    monkeypatch.setattr(examine, "ServingProcess", Ends)
    spec = ServingSpec(Gguf().write(model, tmp_path / "out"), OperatingPoint())
    artifact = examine.prove(model, spec, tiny.dialogues())
    assert artifact.parity is not None
    assert artifact.parity.token_ids_equal
    assert artifact.parity.problems == ()
    assert "gave up: the serving process ended with code -9" in artifact.parity.remarks[0]
