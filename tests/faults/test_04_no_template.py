"""A base model has no chat template: none is made up, and one that is given is used."""

from __future__ import annotations

from pathlib import Path

from tests.support import tiny_models as tiny
from tests.support.command_line import halfwatt
from tests.support.refusals import LENIENT, refused


def test_without_a_template(tmp_path: Path, chats: Path) -> None:
    base = tiny.folder(tmp_path / "base", template=None)
    line: list[str | Path] = ["quantize", base, "--bits", "8", "-d", chats, "-o", tmp_path / "out"]
    refused(*line, says=("has no chat template", "--chat-template FILE"), within=tmp_path)
    (tmp_path / "chatml.jinja").write_text(tiny.CHATML)
    assert halfwatt(*line, "--chat-template", tmp_path / "chatml.jinja", base=LENIENT).returncode == 0
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == tiny.CHATML
