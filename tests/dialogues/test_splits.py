"""Splits share no first turn and keep what is known of their file; the sealed split opens for one winner."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halfwatt.core.errors import BadInput, DialogueError
from halfwatt.dialogues.dialogue import Dialogue, DialogueSet, Message
from halfwatt.dialogues.splits import SealedSplit, by_source, split_set
from tests.support.dialogues import opening


def asking(openings: list[str]) -> DialogueSet:
    return DialogueSet.of(
        (Dialogue(str(i), (Message("user", text), Message("assistant", "ok"))) for i, text in enumerate(openings)),
        split="train",
        licence="MIT",
    )


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.sampled_from(["a", "A ", "b", "c  d", "C d", "e"]) | st.text(min_size=1), min_size=30), st.integers()
)
def test_splits_share_no_first_turn_and_lose_nothing(openings: list[str], seed: int) -> None:
    whole = asking(openings)
    try:
        parts = split_set(whole, {"train": 0.4, "tune": 0.3, "test": 0.3}, seed=seed)
    except DialogueError:
        return
    first = {split: {opening(d) for d in part.dialogues} for split, part in parts.items()}
    assert not first["train"] & first["test"]
    assert not first["tune"] & (first["train"] | first["test"])
    assert sorted(d.id for part in parts.values() for d in part.dialogues) == sorted(d.id for d in whole.dialogues)


def test_splits_are_as_large_as_asked_and_do_not_depend_on_the_files_order() -> None:
    openings = [f"question {i}" for i in range(100)]
    sizes: dict[Any, float | int] = {"train": 0.3, "tune": 0.3, "test": 0.4}
    parts = split_set(asking(openings), sizes, seed=1)
    assert {split: len(part) for split, part in parts.items()} == {"train": 30, "tune": 30, "test": 40}
    assert all(part.split == split and part.licence == "MIT" for split, part in parts.items())
    random.Random(0).shuffle(openings)
    again = split_set(asking(openings), sizes, seed=1)
    assert {opening(d) for d in again["test"].dialogues} == {opening(d) for d in parts["test"].dialogues}
    other = split_set(asking(openings), sizes, seed=2)
    assert {opening(d) for d in other["test"].dialogues} != {opening(d) for d in parts["test"].dialogues}
    numbers = split_set(asking(openings), {"train": 5, "tune": 10, "test": 20})
    assert {split: len(part) for split, part in numbers.items()} == {"train": 5, "tune": 10, "test": 20}


def greeting(*further: str) -> tuple[Message, ...]:
    """People say hello, and then what they want."""
    talk = [Message("user", "Hello"), Message("assistant", "How can I help?")]
    for text in further:
        talk += [Message("user", text), Message("assistant", "ok")]
    return tuple(talk)


@pytest.mark.parametrize("told", ["by the second turn", "by the third turn"])
def test_where_all_open_alike_what_follows_tells_them_apart(told: str) -> None:
    """One split would have held them all, and the others none."""
    talks = {
        "by the second turn": [greeting(f"question {n // 2}", f"more {n}") for n in range(60)],
        "by the third turn": [greeting("My order.", f"number {n // 2}") for n in range(60)],
    }[told]
    whole = DialogueSet.of((Dialogue(f"{n:02}", talk) for n, talk in enumerate(talks)), split="train", licence="")
    parts = split_set(whole, {"train": 0.3, "tune": 0.3, "test": 0.4})
    assert {split: len(part) for split, part in parts.items()} == {"train": 18, "tune": 18, "test": 24}
    for part in parts.values():  # who go on alike stay together
        ids = {int(d.id) for d in part.dialogues}
        assert {n ^ 1 for n in ids} == ids


def test_what_is_said_twice_word_for_word_is_never_on_both_sides() -> None:
    talks = [greeting("My order.", "number 7")] * 20 + [greeting("A lamp.", f"number {n}") for n in range(20)]
    whole = DialogueSet.of((Dialogue(f"{n:02}", talk) for n, talk in enumerate(talks)), split="train", licence="")
    parts = split_set(whole, {"train": 0.6, "tune": 0.2, "test": 0.2})
    assert {d.id for d in parts["train"].dialogues} >= {f"{n:02}" for n in range(20)}
    with pytest.raises(DialogueError, match="20 dialogues with 1 different beginnings cannot fill"):
        split_set(whole.subset(whole.dialogues[:20]), {"train": 0.6, "tune": 0.2, "test": 0.2})


def test_a_clock_in_the_system_message_makes_no_other_question() -> None:
    """Nor does what the assistant said: the same question would be learnt and judged."""
    asked = [(f"It is 10:{n:02}.", "Turn on the light", f"Done, {n}.") for n in range(50)]
    asked += [("It is 11:00.", f"question {n}", "ok") for n in range(50)]
    talks = [(Message("system", a), Message("user", b), Message("assistant", c)) for a, b, c in asked]
    whole = DialogueSet.of((Dialogue(f"{n:02}", talk) for n, talk in enumerate(talks)), split="train", licence="")
    parts = split_set(whole, {"train": 0.6, "tune": 0.2, "test": 0.2})
    assert {d.id for d in parts["train"].dialogues} >= {f"{n:02}" for n in range(50)}
    assert sum(map(len, parts.values())) == 100


def test_no_dialogue_is_lost_whatever_it_says() -> None:
    """Texts that look like what the division itself writes down."""
    talks = [greeting(f"question {n}") for n in range(60)]
    talks += [(Message("user", text), Message("assistant", "ok")) for text in ("user: hello", "hello\0question 1")]
    whole = DialogueSet.of((Dialogue(f"{n:02}", talk) for n, talk in enumerate(talks)), split="train", licence="")
    assert sum(map(len, split_set(whole, {"train": 0.3, "tune": 0.3, "test": 0.4}).values())) == 62


def test_case_and_spaces_do_not_make_another_first_turn() -> None:
    same = asking(["Turn on\tthe  LIGHT", "turn on the light ", " turn ON the light", "a", "b", "c"])
    assert [opening(d) for d in same.dialogues[:3]] == ["turn on the light"] * 3
    for seed in range(8):
        parts = split_set(same, {"train": 0.5, "test": 0.5}, seed=seed)
        assert sum(opening(d) == "turn on the light" for d in parts["test"].dialogues) in (0, 3)


def test_a_group_that_does_not_fit_stays_in_train() -> None:
    parts = split_set(asking(["same"] * 10 + ["a", "b", "c", "d"]), {"test": 0.2})
    assert len(parts["test"]) == 3
    assert "same" not in {opening(d) for d in parts["test"].dialogues}


def test_too_few_openings_to_split() -> None:
    with pytest.raises(DialogueError, match="1 different beginnings cannot fill the test split"):
        split_set(asking(["same"] * 50), {"tune": 0, "test": 0.3})


def test_the_sealed_split_opens_for_one_winner(tmp_path: Path) -> None:
    dialogues = asking(["a", "b"])
    sealed = SealedSplit(dialogues, tmp_path / "opened.json")
    assert (len(sealed), sealed.sha256) == (2, dialogues.sha256)
    assert not sealed.seal.exists()
    assert sealed.open("winner-1") is dialogues
    assert json.loads(sealed.seal.read_text())["winner"] == "winner-1"
    assert SealedSplit(dialogues, sealed.seal).open("winner-1") is dialogues  # the run was interrupted and goes on
    for other in (SealedSplit(dialogues, sealed.seal), sealed):
        with pytest.raises(BadInput, match=r"opened already.*winner-1.*winner-2"):
            other.open("winner-2")
    with pytest.raises(BadInput, match="opened already"):
        SealedSplit(asking(["a", "c"]), sealed.seal).open("winner-1")
    assert json.loads(sealed.seal.read_text())["winner"] == "winner-1"


def test_every_part_still_knows_what_its_file_lost() -> None:
    whole = asking([f"question {i}" for i in range(20)])
    whole = DialogueSet.of(whole.dialogues, split="train", licence="MIT", skipped=("chats.jsonl:7: not JSON",))
    parts = split_set(whole, {"train": 0.4, "tune": 0.3, "test": 0.3})
    assert [part.skipped for part in (*parts.values(), *by_source(whole, 5).values())] == [whole.skipped] * 4


def test_by_source_takes_evenly_of_each_and_leaves_out_a_single_one() -> None:
    turns = (Message("user", "Hi"), Message("assistant", "Hello!"))
    sources = ["home", "", "shop"] * 7 + ["once"]
    whole = DialogueSet.of(
        (Dialogue(str(i), turns, source) for i, source in enumerate(sources)), split="tune", licence="MIT"
    )
    parts = by_source(whole, 3)
    assert {name: [d.id for d in part.dialogues] for name, part in parts.items()} == {
        "other": ["1", "10", "19"],
        "home": ["0", "9", "18"],
        "shop": ["2", "11", "20"],
    }
    assert all((part.split, part.licence) == ("tune", "MIT") for part in parts.values())
