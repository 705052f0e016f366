"""A sound model and sound dialogues, beside which one thing is wrong; the numbers are those of docs/faults.md."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import taught_students as taught
from tests.support import tiny_models as tiny


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny.folder(tmp_path / "model")


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    return taught.chats(tmp_path, taught.dialogues())
