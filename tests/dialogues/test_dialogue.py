"""A set's hash is of its dialogues alone, and its notes name the rows that were left out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from halfwatt.dialogues.dialogue import Dialogue, DialogueSet, Message
from halfwatt.dialogues.readers import read_dialogues

HI = {"role": "user", "content": "Hi"}
HELLO = {"role": "assistant", "content": "Hello!"}


def test_the_hash_is_of_the_dialogues_alone(tmp_path: Path) -> None:
    rows = [{"id": "x", "messages": [HI, HELLO]}, {"id": "y", "messages": [HELLO | HI, HELLO]}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    one = read_dialogues(tmp_path / "a.jsonl")
    spaced = json.dumps([{"id": i, "extra": 1, "messages": [HI, HELLO]} for i in "xy"], indent=4)
    (tmp_path / "b.json").write_text(spaced)
    assert one.sha256 == read_dialogues(tmp_path / "b.json").sha256
    changed = DialogueSet.of([*one.dialogues[:1], Dialogue("y", (Message("user", "Hi!"),))], split="train", licence="")
    assert changed.sha256 != one.sha256
    assert DialogueSet.of(reversed(one.dialogues), split="train", licence="").sha256 != one.sha256


@pytest.mark.parametrize(
    ("faults", "note"),
    [
        (1, "1 faulty row was left out: a.jsonl:0: x"),
        (2, "2 faulty rows were left out: a.jsonl:0: x; a.jsonl:1: x"),
        (12, "; a.jsonl:9: x; and 2 more"),
    ],
)
def test_rows_that_were_left_out_are_noted(faults: int, note: str) -> None:
    skipped = tuple(f"a.jsonl:{i}: x" for i in range(faults))
    dialogue_set = DialogueSet.of((), split="tune", licence="", skipped=skipped)
    assert len(dialogue_set.notes) == 1
    assert note in dialogue_set.notes[0]
    assert DialogueSet.of((), split="tune", licence="").notes == ()


def test_a_subset_keeps_where_it_came_from() -> None:
    dialogues = [Dialogue(name, (Message("user", name), Message("assistant", "ok"))) for name in "ab"]
    whole = DialogueSet.of(dialogues, split="tune", licence="MIT", skipped=("a.jsonl:1: x",))
    part = whole.subset(dialogues[:1], "test")
    assert (part.split, part.licence, part.skipped, len(part)) == ("test", "MIT", whole.skipped, 1)
    assert part.sha256 != whole.sha256
    assert whole.subset(dialogues) == whole
