"""Two processes in one output folder: the second is refused, with the pid and the host of the first."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from halfwatt.core.files import locked
from tests.support.refusals import refused


@pytest.mark.parametrize("verb", [["optimize"], ["prune", "--drop", "1"]], ids=lambda verb: verb[0])
def test_the_second_is_refused(verb: list[str], tmp_path: Path, model: Path, chats: Path) -> None:
    out = tmp_path / "out"
    held = out if verb == ["optimize"] else tmp_path / ".out.training"
    with locked(held):
        line: list[str | Path] = [*verb, model, "-d", chats, "-o", out]
        refused(*line, says=("in use", f"pid {os.getpid()}", socket.gethostname()), within=tmp_path)
