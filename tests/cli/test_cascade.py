"""Cascades as they are typed: what has to be said for one, and that other verbs take it as any artifact."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from halfwatt.dialogues.dialogue import Dialogue, Message
from tests.support import taught_students as taught
from tests.support.cascades import SAID, tiny_cascade
from tests.support.command_line import halfwatt


def test_what_has_to_be_said_for_it(tmp_path: Path) -> None:
    line: list[str | Path] = ["optimize", "demo", "-o", tmp_path / "out"]
    nobody = halfwatt(*line, "--cascade", "20%")
    assert nobody.returncode == 2
    assert "--cascade puts a student in front; pass --budget 60m, so that there is one, or --recipe" in nobody.stderr
    line += ["--budget", "10m"]
    done = halfwatt(*line, "--cascade", "20%")
    assert done.returncode == 2
    assert "--cascade needs dialogues of another kind; pass --outside FILE" in done.stderr
    assert "--cascade is a share between 0 and 95 %" in halfwatt(*line, "--cascade", "0").stderr
    asked = (f"Any rain coming to town {n} soon" for n in range(20))
    others = [Dialogue(f"w{n}", (Message("user", q), Message("assistant", "No."))) for n, q in enumerate(asked)]
    few = halfwatt(*line, "--cascade", "20%", "--outside", taught.chats(tmp_path, others))
    assert "too few dialogues for traffic with 20% of another kind (found: " in few.stderr
    assert "; give more dialogues: 14 of each are the least in a part that judges" in few.stderr
    assert not (tmp_path / "out").exists()


def test_other_verbs_take_it_as_any_artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_cascade(tmp_path).path
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{SAID[0]}\nQuelle heure est-il?\n"))
    talk = halfwatt("chat", folder, "--json")
    assert talk.returncode == 0, talk.stderr
    replies = [json.loads(line) for line in talk.stdout.splitlines() if '"reply"' in line]
    assert len(replies) == 2
    assert all(reply["tokens"] > 0 for reply in replies)
    compared = halfwatt("compare", folder, folder)
    assert compared.returncode == 2
    assert "a cascade is no reference; name its original in its place" in compared.stderr
