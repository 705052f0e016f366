"""A sound model and sound dialogues, beside which one thing is wrong; the numbers are those of docs/faults.md."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import taught_students as taught
from tests.support import tiny_models as tiny
from tests.support.live_server import Client, serving, slow_passes, tiny_artifact


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny.folder(tmp_path / "model")


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    return taught.chats(tmp_path, taught.dialogues())


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For a server."""
    return tiny_artifact(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def server(artifact: Path) -> Iterator[Client]:
    with serving(artifact, max_reply_tokens=400) as client:
        yield client


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    slow_passes(monkeypatch, 0.01)
