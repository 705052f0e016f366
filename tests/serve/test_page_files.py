"""The page's files, without a browser: all texts in both languages, and nothing from elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

import halfwatt.serve.server
from tests.support.live_server import Client, serving, tiny_artifact

PAGE = Path(halfwatt.serve.server.__file__).parent / "page"


def languages() -> dict[str, dict[str, set[str]]]:
    """The keys of each language, and what is filled into each."""
    text = (PAGE / "words.js").read_text()
    parts = re.split(r"^  (\w\w): \{$", text, flags=re.MULTILINE)[1:]
    entries = {
        name: re.findall(r'^    (\w+): "(.*)",$', body, flags=re.MULTILINE)
        for name, body in zip(*[iter(parts)] * 2, strict=True)
    }
    return {name: {key: set(re.findall(r"\{(\w+)\}", value)) for key, value in own} for name, own in entries.items()}


def test_both_languages_say_everything() -> None:
    spoken = languages()
    assert set(spoken) == {"en", "zh"}
    assert spoken["en"] == spoken["zh"]
    script, html = (PAGE / "page.js").read_text(), (PAGE / "index.html").read_text()
    used = {*re.findall(r'words\("(\w+)"', script), *re.findall(r'data-(?:words|label)="(\w+)"', html)}
    by_what_came = "saved dearer optimized original model you by_student by_original"
    used |= {*by_what_came.split(), *"ABCDE"}
    assert used == set(spoken["en"])


def test_nothing_comes_from_elsewhere() -> None:
    for path in PAGE.iterdir():
        assert "//" not in re.sub(r"(^|\s)// .*$", "", path.read_text(), flags=re.MULTILINE), path.name
        assert "innerHTML" not in path.read_text()


def test_the_server_has_them(tmp_path: Path) -> None:
    with serving(tiny_artifact(tmp_path)) as client:
        assert isinstance(client, Client)
        assert "<title>halfwatt</title>" in client.ask(path="/")[1]
        for name in re.findall(r'"(page/[\w.]+)"', (PAGE / "index.html").read_text()):
            assert client.ask(path=f"/{name}")[0] == 200
        assert client.ask(path="/page/index.html")[0] == 404
        assert client.ask(path="/page/../server.py")[0] == 404
