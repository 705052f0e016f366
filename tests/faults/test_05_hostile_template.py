"""A template that never ends, makes too much, is too long or reaches for Python's own is stopped."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.support.refusals import refused

HOSTILE = {
    "loops": ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "was stopped"),
    "is huge": ("x" * (300 << 10), "is too long"),
    "makes too much": ("{{ 'x' * 999999 }}", "999999, at most"),
    "leaves": ("{{ messages.__class__ }}", "leave its sandbox"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_it_is_refused(what: str, tmp_path: Path, model: Path, chats: Path) -> None:
    text, why = HOSTILE[what]
    (tmp_path / "t.jinja").write_text(text)
    began = time.monotonic()
    line: list[str | Path] = ["quantize", model, "--bits", "8", "-d", chats, "--chat-template", tmp_path / "t.jinja"]
    refused(*line, "-o", tmp_path / "out", says=(why,), within=tmp_path)
    assert time.monotonic() - began < 60
