"""The dialogues that ship, and how they are prepared from their four sources."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from halfwatt import demo
from halfwatt.dialogues.dialogue import Split
from scripts.demo_model import prepare
from tests.support.dialogues import opening


def test_the_shipped_splits_share_no_opening_and_are_large_enough() -> None:
    splits: tuple[Split, ...] = ("train", "tune", "test")
    openings = {split: {opening(d) for d in demo.dialogues(split).dialogues} for split in splits}
    assert not openings["train"] & openings["tune"]
    assert not openings["train"] & openings["test"]
    assert not openings["tune"] & openings["test"]
    assert len(demo.dialogues("test")) >= 400  # enough for the gate to prove 2 points of failures
    assert all("CC BY-SA" in demo.dialogues(split).licence for split in splits)
    assert "{{" not in "".join(m.content for d in demo.dialogues("train").dialogues for m in d.messages)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four sources of 30 training and 24 dev dialogues; every third dev opening is also trained on."""
    for source in prepare.SOURCES:
        write(tmp_path / f"{source}.train.jsonl.gz", [row(source, f"Train {i}") for i in range(30)])
        dev = [row(source, f"train  {i}" if i % 3 == 0 else f"Dev {i}") for i in range(24)]
        write(tmp_path / f"{source}.dev.jsonl.gz", dev)
    return tmp_path


def row(source: str, opening: str) -> dict[str, object]:
    messages = [
        {"role": "user", "content": f"{opening} of {source}"},
        {"role": "assistant", "content": " Call {{Customer Support Phone Number}} about {{Order Number}}. "},
    ]
    return {"id": f"{source}-{opening}", "source": source, "messages": messages}


def write(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "TUNE", dict.fromkeys(prepare.SOURCES, 6))
    monkeypatch.setattr(prepare, "TEST", dict.fromkeys(prepare.SOURCES, 12))


def test_what_is_judged_is_never_trained_on(data: Path) -> None:
    tune, test = ({prepare.first_turn(r) for r in rows} for rows in (prepare.tune(data), prepare.test(data)))
    trained = {prepare.first_turn(r) for rows in prepare.corpus(data).values() for r in rows}
    assert len(tune) == 24
    assert len(test) == 48
    assert not tune & test
    assert not trained & (tune | test)
    assert len(trained) < 4 * 30  # dev openings that were trained on had to be taken out


def test_the_same_sources_give_the_same_bytes(data: Path, tmp_path: Path) -> None:
    outputs = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        prepare.main(["--data", str(data), "--out", str(tmp_path / name)])
        outputs.append({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()})
    assert outputs[0] == outputs[1]
    assert set(outputs[0]) == {f"dialogues.{s}.jsonl.gz" for s in ("train", "tune", "test")}


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("Call {{Customer Support Phone Number}}.", "Call 555-0137."),
        ("order {{Order Number}}", "order 10482"),
        ("open {{My Orders}}", "open My Orders"),
        ("visit {{ Website URL }}", "visit Brightmart"),
    ],
)
def test_placeholders_become_words(text: str, filled: str) -> None:
    assert prepare.fill(text) == filled
