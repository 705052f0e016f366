"""A disk without room: what was there stays, nothing half-written is left; told before long work where it can be.

python -m benchmarks.faults disk does it on a file system that is really full.
"""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from halfwatt.core.errors import EnvironmentFault
from halfwatt.models.chat_model import load
from tests.support.refusals import files, refused

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_no_room_for_a_model_is_told_before_it_is_written(
    tmp_path: Path, model: Path, chats: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    line: list[str | Path] = ["trim", model, "-d", chats, "-o", tmp_path / "out"]
    refused(*line, says=("needs", "MB free", "free some space"), within=tmp_path, code=3)


@pytest.mark.parametrize("verb", [["trim"], ["quantize", "--bits", "8"]], ids=lambda verb: verb[0])
def test_a_disk_that_fills_while_it_is_written(
    verb: list[str], tmp_path: Path, model: Path, chats: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise FULL

    monkeypatch.setattr(os, "fsync", full)
    line: list[str | Path] = [*verb, model, "-d", chats, "-o", tmp_path / "out"]
    refused(*line, says=("no space left to write",), within=tmp_path, code=3)


def test_what_was_there_stays(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, before = load(model), files(tmp_path)
    real = Path.write_text

    def full(path: Path, *some: Any, **more: Any) -> int:
        if path.name == "tokenizer_config.json":
            raise FULL
        return real(path, *some, **more)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(EnvironmentFault, match="nothing was replaced"):
        loaded.save(tmp_path / "out")
    assert files(tmp_path) == before
