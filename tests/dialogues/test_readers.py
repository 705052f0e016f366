"""Every form is read, and every faulty row is named by file and line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from halfwatt.core.errors import DialogueError
from halfwatt.dialogues.dialogue import DialogueSet
from halfwatt.dialogues.readers import MAX_LINE_B, read_dialogues

HI = {"role": "user", "content": "Hi"}
HELLO = {"role": "assistant", "content": "Hello!"}
GOOD = json.dumps({"messages": [HI, HELLO]})


def write(path: Path, *lines: str | bytes) -> Path:
    path.write_bytes(b"".join((line if isinstance(line, bytes) else line.encode()) + b"\n" for line in lines))
    return path


def row(*messages: dict[str, Any], **more: Any) -> str:
    return json.dumps({"messages": messages, **more})


def texts(chats: DialogueSet) -> list[list[tuple[str, str]]]:
    return [[(m.role, m.content) for m in d.messages] for d in chats.dialogues]


EXPECTED = [("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello!")]
SYSTEM = {"role": "system", "content": "Be kind."}
SHAREGPT = {
    "conversations": [
        {"from": "system", "value": "Be kind."},
        {"from": "human", "value": "Hi"},
        {"from": "gpt", "value": "Hello!"},
    ]
}


@pytest.mark.parametrize("name", ["d.jsonl", "d.jsonl.gz", "d.json", "d.json.gz"])
@pytest.mark.parametrize("one", [{"messages": [SYSTEM, HI, HELLO]}, SHAREGPT], ids=["messages", "sharegpt"])
def test_forms_and_files(tmp_path: Path, name: str, one: dict[str, Any]) -> None:
    text = json.dumps([one, one], indent=1) if ".json." in name + "." else f"{json.dumps(one)}\n\n{json.dumps(one)}\r\n"
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    chats = read_dialogues(path, split="tune", licence="CC0-1.0")
    assert texts(chats) == [EXPECTED, EXPECTED]
    assert (chats.split, chats.licence, len(chats), chats.skipped) == (
        "tune",
        "CC0-1.0",
        2,
        (),
    )


def test_alpaca(tmp_path: Path) -> None:
    rows = [
        {"instruction": "Greet", "input": "", "output": "Hi"},
        {"instruction": "Add", "input": "1, 2", "output": "3"},
    ]
    chats = read_dialogues(write(tmp_path / "a.jsonl", *map(json.dumps, rows)))
    assert texts(chats) == [
        [("user", "Greet"), ("assistant", "Hi")],
        [("user", "Add\n\n1, 2"), ("assistant", "3")],
    ]


FORMS: dict[str, tuple[dict[str, Any], list[tuple[str, str]]]] = {
    "a column of another source, empty": ({"messages": None, **SHAREGPT}, EXPECTED),
    "nulls inside messages": ({"messages": [{**SYSTEM, "name": None}, HI, {**HELLO, "tool_calls": None}]}, EXPECTED),
    "conversations with role and content": ({"conversations": [SYSTEM, HI, HELLO]}, EXPECTED),
    "messages with from and value": ({"messages": SHAREGPT["conversations"]}, EXPECTED),
    "conversation": ({"conversation": [SYSTEM, HI, HELLO]}, EXPECTED),
    "developer": ({"messages": [{**SYSTEM, "role": "developer"}, HI, HELLO]}, EXPECTED),
    "parts of text": ({"messages": [SYSTEM, {**HI, "content": [{"type": "text", "text": "Hi"}]}, HELLO]}, EXPECTED),
    "a system column": ({"system": "Be kind.", "messages": [HI, HELLO]}, EXPECTED),
    "a system column of Alpaca": ({"system": "Be kind.", "instruction": "Hi", "output": "Hello!"}, EXPECTED),
    "an absent input": ({"instruction": "Hi", "input": float("nan"), "output": "Hello!"}, EXPECTED[1:]),
    "history": (
        {"instruction": "And you?", "output": "Too.", "history": [["Hi", "Hello!"]]},
        [*EXPECTED[1:], ("user", "And you?"), ("assistant", "Too.")],
    ),
    "prompt and completion": ({"prompt": "Hi", "completion": "Hello!"}, EXPECTED[1:]),
    "prompt and completion, messages": ({"prompt": [SYSTEM, HI], "completion": [HELLO]}, EXPECTED),
    "a preference": ({"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"}, EXPECTED[1:]),
    "a preference that holds its prompt": ({"chosen": [SYSTEM, HI, HELLO], "rejected": [SYSTEM, HI, HI]}, EXPECTED),
    "a preference with the prompt twice": ({"prompt": [HI], "chosen": [HI, HELLO]}, EXPECTED[1:]),
    "a preference of Alpaca": ({"instruction": "Hi", "input": "", "chosen": "Hello!", "rejected": "x"}, EXPECTED[1:]),
    "a preference of ShareGPT": (
        {"conversations": [{"from": "human", "value": "Hi"}], "chosen": {"from": "gpt", "value": "Hello!"}},
        EXPECTED[1:],
    ),
    "a part of a text that is a line break": (
        {"messages": [HI, {**HELLO, "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "\n"}]}]},
        [("user", "Hi"), ("assistant", "a\n")],
    ),
    "the prompt beside messages": ({"prompt": "Hi", "messages": [SYSTEM, HI, HELLO]}, EXPECTED),
    "a label that is no verdict": ({"label": "greeting", "messages": [SYSTEM, HI, HELLO]}, EXPECTED),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_is_read(tmp_path: Path, name: str) -> None:
    one, expected = FORMS[name]
    assert texts(read_dialogues(write(tmp_path / "d.jsonl", json.dumps(one), GOOD)))[0] == expected


def test_replies_that_do_not_count_are_neither_learned_nor_judged(tmp_path: Path) -> None:
    """OpenAI writes weights of 0 and 1, Axolotl train: true and false."""
    turns: list[dict[str, Any]] = [
        HI,
        {**HELLO, "weight": 0},
        HI,
        {**HELLO, "weight": 1},
        HI,
        {**HELLO, "training": False},
        {**HI, "weight": 0},
        HELLO,
    ]
    plain: list[dict[str, Any]] = [HI, HELLO] * 4
    chats, same = (read_dialogues(write(tmp_path / "w.jsonl", row(*some))) for some in (turns, plain))
    assert chats.dialogues[0].assistant_turns == (3, 7)
    assert texts(chats) == texts(same)
    assert chats.sha256 != same.sha256
    ignored = read_dialogues(write(tmp_path / "w.jsonl", row(*turns)), ignore=("weight", "training"))
    assert ignored.sha256 == same.sha256


MEANT = {
    "tools": row(HI, HELLO, tools=[{"type": "function"}]),
    "documents": row(HI, HELLO, documents=["x"]),
    "chat_template_kwargs": row(HI, HELLO, chat_template_kwargs={"enable_thinking": False}),
    "images": row(HI, HELLO, images=["x.png"]),
    "label": row(HI, HELLO, label=False),
    "tool_calls": row(HI, {**HELLO, "tool_calls": [{"id": "x"}]}),
    "function_call": row(HI, {**HELLO, "function_call": {"name": "x"}}),
    "name": row({**HI, "name": "Ann"}, HELLO),
    "reasoning_content": row(HI, {**HELLO, "reasoning_content": "They greet."}),
    "weight": row(HI, {**HELLO, "weight": 0.5}),
    "function_calls": row(HI, {**HELLO, "function_calls": "f()"}),
    "thinking": row(HI, HELLO, thinking="They greet."),
}


@pytest.mark.parametrize("key", MEANT)
def test_what_is_meant_and_not_honoured_is_refused_unless_it_is_to_be_ignored(tmp_path: Path, key: str) -> None:
    path = write(tmp_path / "d.jsonl", GOOD, MEANT[key])
    with pytest.raises(DialogueError, match=rf"d\.jsonl:2: .*--ignore {key}"):
        read_dialogues(path)
    assert texts(read_dialogues(path, ignore=(key,))) == [EXPECTED[1:]] * 2


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (row(HI, HELLO, conversation=[HI, HELLO]), "both messages and conversation; keep the one"),
        (row(SYSTEM, HI, HELLO, system="Be brief."), "two system texts"),
        (row(HI, {**HELLO, "weight": 0}), "no assistant turn counts"),
        (json.dumps({"instruction": "Hi", "output": "x", "history": ["Hi"]}), "history is no list of pairs"),
        (json.dumps({"prompt": "Hi"}), "but prompt; bring it into"),
        (json.dumps({"instruction": "Hi", "response": "x"}), "no output beside the instruction"),
        (json.dumps({"chosen": "Human: Hi"}), "chosen is a text, and its prompt is not there"),
        (json.dumps({"prompt": "Hi", "completion": "x", "label": 0}), "label .*--ignore label"),
        (row(SYSTEM, HI, HELLO, system_prompt="x"), "--ignore system_prompt"),
        (row(HI, HELLO, id="\ud800"), "id holds half of a surrogate pair"),
        (row(HI, HELLO, source="\ud800"), "source holds half of a surrogate pair"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, line: str, says: str) -> None:
    with pytest.raises(DialogueError, match=says):
        read_dialogues(write(tmp_path / "d.jsonl", GOOD, line))


def test_a_made_up_name_never_takes_anothers_place(tmp_path: Path) -> None:
    chats = read_dialogues(write(tmp_path / "chats.jsonl", *(row(HI, HELLO, id=own) for own in ("x#3", "x", "x"))))
    assert [d.id for d in chats.dialogues] == ["x#3", "x", "x#3#3"]


def test_ids_are_kept_made_and_never_repeated(tmp_path: Path) -> None:
    lines = [row(HI, HELLO, id="a", source="home"), row(HI, HELLO), row(HI, HELLO, id="a"), row(HI, HELLO, id=7)]
    chats = read_dialogues(write(tmp_path / "chats.jsonl", *lines))
    assert [d.id for d in chats.dialogues] == ["a", "chats-2", "a#3", "7"]
    assert [d.source for d in chats.dialogues] == ["home", "", "", ""]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        (b'{"messages": "\xff"}', "not UTF-8 at byte"),
        (b"\xef\xbb\xbf" + GOOD.encode(), "byte-order mark"),
        (b"\0" + GOOD.encode(), "NUL byte"),
        ("3", "must be a JSON object, not a number"),
        ('{"text": "x"}', "but text"),
        (row(), "no messages, conversations, instruction, chosen, or prompt and completion, but nothing"),
        ('{"messages": null}', "but nothing"),
        ('{"messages": 3}', "the list of messages is a number"),
        ('{"messages": ["Hi"]}', "must be an object with role and content, not a string"),
        (row({"role": "tool", "content": "x"}), 'unknown role "tool"'),
        (row({"role": None, "content": "x"}), "unknown role null"),
        (row({"role": ["user"], "content": "x"}), "unknown role"),
        (row({"role": "user", "content": None}), "content is null"),
        (row({"role": "user", "content": [{"type": "image", "url": "x"}]}), "list of parts"),
        (row({"role": "user", "content": " \n"}), "content is empty"),
        (row({"role": "user", "content": "a\0b"}), "NUL character"),
        (row({"role": "user", "content": "\ud800"}), "surrogate"),
        (row(HI, HI, HELLO), "message 2: two user turns in a row"),
        (row(SYSTEM, HI, HELLO, HELLO), "message 4: two assistant turns in a row"),
        (row(HI), "no assistant turn"),
        (row(SYSTEM), "no assistant turn"),
        (row(HELLO, HI, HELLO), "the assistant speaks first"),
        (row(HI, HELLO, HI), "the last message is the user's"),
        (row(HI, SYSTEM, HELLO), "message 2: a system message after the first"),
    ],
)
def test_a_fault_is_named_by_file_and_line(tmp_path: Path, line: str | bytes, says: str) -> None:
    path = write(tmp_path / "chats.jsonl", GOOD, "", line, GOOD)
    with pytest.raises(DialogueError) as caught:
        read_dialogues(path)
    message = str(caught.value)
    assert f"1 of 3 rows of {path} cannot be used" in message
    assert "chats.jsonl:3: " in message
    assert says in message
    assert "\n" not in message
    assert len(message) < 600


@pytest.mark.parametrize(
    ("turn", "says"),
    [({"from": "observation", "value": "x"}, "unknown from"), ({"from": "gpt", "value": None}, "value is null")],
)
def test_sharegpt_faults_speak_its_words(tmp_path: Path, turn: dict[str, Any], says: str) -> None:
    path = write(tmp_path / "s.jsonl", json.dumps({"conversations": [{"from": "human", "value": "x"}, turn]}))
    with pytest.raises(DialogueError, match=says):
        read_dialogues(path)


def test_a_faulty_first_row_does_not_decide_the_form(tmp_path: Path) -> None:
    with pytest.raises(DialogueError, match=r"1 of 2 rows.*s\.jsonl:1: not JSON"):
        read_dialogues(write(tmp_path / "s.jsonl", "{", json.dumps(SHAREGPT)))


def test_a_huge_line_is_a_fault_and_the_next_line_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", GOOD, '{"messages": "' + "x" * (MAX_LINE_B + 10), GOOD)
    with pytest.raises(DialogueError, match=r"1 of 3 rows.*d\.jsonl:2: the line is longer than 8 MB"):
        read_dialogues(path)


def test_all_faults_are_counted_and_ten_are_listed(tmp_path: Path) -> None:
    with pytest.raises(DialogueError) as caught:
        read_dialogues(write(tmp_path / "d.jsonl", *(["{"] * 12), GOOD))
    message = str(caught.value)
    assert "12 of 13 rows" in message
    assert "d.jsonl:10:" in message
    assert "d.jsonl:11:" not in message
    assert "and 2 more" in message


@pytest.mark.parametrize(("good", "bad", "passes"), [(99, 1, True), (98, 1, False), (198, 2, True), (197, 3, False)])
def test_skip_bad_is_counted_and_capped_at_one_percent(tmp_path: Path, good: int, bad: int, passes: bool) -> None:
    path = write(tmp_path / "d.jsonl", *([GOOD] * good), *(["{"] * bad))
    with pytest.raises(DialogueError, match="--skip-bad" if passes else "cannot be used"):
        read_dialogues(path)
    if passes:
        chats = read_dialogues(path, skip_bad=True)
        assert len(chats) == good
        assert [s.split(": ")[0] for s in chats.skipped] == [f"d.jsonl:{good + i + 1}" for i in range(bad)]
    else:
        with pytest.raises(DialogueError, match="at most 1%"):
            read_dialogues(path, skip_bad=True)


def test_files_that_are_not_dialogues(tmp_path: Path) -> None:
    with pytest.raises(DialogueError, match="there is no file"):
        read_dialogues(tmp_path / "none.jsonl")
    with pytest.raises(DialogueError, match="no table that can be read"):
        read_dialogues(tmp_path)
    for name, text in (
        ("e.jsonl", b""),
        ("blank.jsonl", b"\n \n"),
        ("e.jsonl.gz", gzip.compress(b"")),
        ("e.json", b"[]"),
    ):
        (tmp_path / name).write_bytes(text)
        with pytest.raises(DialogueError, match="is empty"):
            read_dialogues(tmp_path / name)
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress((GOOD + "\n").encode() * 100)[:-12])
    (tmp_path / "plain.jsonl.gz").write_bytes(GOOD.encode())
    for name in ("cut.jsonl.gz", "plain.jsonl.gz"):
        with pytest.raises(DialogueError, match="cannot be read to its end"):
            read_dialogues(tmp_path / name)
    with pytest.raises(DialogueError, match="not one JSON array"):
        read_dialogues(write(tmp_path / "half.json", "[" + GOOD))
