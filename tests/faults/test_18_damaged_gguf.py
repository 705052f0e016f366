"""Damaged GGUF files are read as what they are or refused; python -m benchmarks.faults gguf tries a thousand."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from halfwatt.core.errors import ModelError
from halfwatt.core.settings import Access
from halfwatt.formats.gguf import Gguf
from halfwatt.models.chat_model import load
from tests.support import tiny_models as tiny
from tests.support.mutants import mutants
from tests.support.refusals import refused


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("sound")
    return (Gguf().write(load(tiny.folder(folder)), folder / "out").path / "model.gguf").read_bytes()


def test_forty_mutants(sound: bytes, tmp_path: Path) -> None:
    refusals = 0
    for mutant in mutants(sound, 40, header_b=16_000):
        (tmp_path / "model.gguf").write_bytes(mutant)
        try:
            Gguf().read(tmp_path / "model.gguf", Access())
        except ModelError:
            refusals += 1
    assert 10 <= refusals < 40


@pytest.mark.parametrize("value", [struct.pack("<II", 4, 0), struct.pack("<IQ4s", 8, 4, b"wide")], ids=["0", "text"])
def test_an_alignment_that_is_none(value: bytes, tmp_path: Path) -> None:
    name = b"general.alignment"
    header = struct.pack("<4sIQQQ", b"GGUF", 3, 0, 1, len(name)) + name + value
    (tmp_path / "model.gguf").write_bytes(header + b"\0" * 64)
    with pytest.raises(ModelError, match="not a sound GGUF file"):
        Gguf().read(tmp_path / "model.gguf", Access())


def test_on_the_command_line(sound: bytes, tmp_path: Path, chats: Path) -> None:
    (tmp_path / "torn.gguf").write_bytes(sound[: len(sound) // 2])
    line: list[str | Path] = ["quantize", tmp_path / "torn.gguf", "--bits", "8", "-d", chats, "-o", tmp_path / "out"]
    refused(*line, says=("torn.gguf is not a sound GGUF file",), within=tmp_path)
