"""Dialogue files, read and checked.

Three forms are read, told apart once per file by its first readable row, as JSON lines (also .gz) or one JSON array:

    messages   {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}
    ShareGPT   {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]}
    Alpaca     {"instruction": "Greet me", "input": "", "output": "Hello!"}

A sound dialogue is: a system message or none, then user and assistant in turns, the last word the assistant's. Every
row that is not is named by file and line. Nothing is repaired, and nothing dropped in silence.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

from halfwatt.core.errors import DialogueError
from halfwatt.dialogues.dialogue import Dialogue, DialogueSet, Message, Role, Split, first_faults

MAX_LINE_B = 8 << 20  # a longer line is not a dialogue
MAX_SKIPPED = 0.01  # share of a file's rows that --skip-bad may leave out

_BOM = b"\xef\xbb\xbf"
_ROLES: dict[str, Role] = {"user": "user", "assistant": "assistant", "system": "system"}
_SHAREGPT_ROLES: dict[str, Role] = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", **_ROLES}
_FORMS = {
    "messages": ("role", "content", _ROLES),
    "conversations": ("from", "value", _SHAREGPT_ROLES),
    "instruction": None,
}
"""By the key that tells a row's form: the names of speaker and text, and who may speak. Alpaca has no list of turns."""


class _Fault(Exception):
    """What is wrong with one row, and what to do."""


def read_dialogues(
    path: Path, *, split: Split = "train", licence: str = "unstated", skip_bad: bool = False
) -> DialogueSet:
    """Read a dialogue file. ``skip_bad`` leaves out faulty rows, at most 1 % of all; `DialogueSet.skipped` names each.

    Raises:
        DialogueError: no such file, nothing in it, or faulty rows; lists the first ten by file and line.
    """
    faults: list[str] = []
    dialogues: dict[str, Dialogue] = {}
    count, form = 0, None
    for count, (place, row) in enumerate(_rows(path), start=1):
        try:
            fields, form = _fields(row, form)
            dialogue = _dialogue(fields, form, name=f"{path.name.split('.')[0]}-{count}")
        except _Fault as fault:
            faults.append(f"{path.name}{place}: {fault}")
            continue
        key = dialogue.id if dialogue.id not in dialogues else f"{dialogue.id}#{count}"  # files repeat ids; we do not
        dialogues[key] = replace(dialogue, id=key)
    if not count:
        raise DialogueError(f"{path} is empty", hint="give a file with one dialogue a line")
    few = len(faults) <= MAX_SKIPPED * count
    if faults and not (skip_bad and few):
        limit = f" (--skip-bad leaves out at most {MAX_SKIPPED:.0%} of the rows)" if skip_bad else ""
        hint = "correct them" + (limit or (", or leave them out with --skip-bad" if few else ""))
        what = f"{len(faults)} of {count} rows of {path} cannot be used"
        raise DialogueError(what, got=first_faults(faults), hint=hint)
    return DialogueSet.of(dialogues.values(), split=split, licence=licence, skipped=tuple(faults))


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Each row with its place in the file: ``(":12", {...})``, or a `_Fault` instead of the row."""
    if not path.exists():
        raise DialogueError(f"there is no file {path}", hint="give a .jsonl, .jsonl.gz or .json file of dialogues")
    if path.is_dir():
        raise DialogueError(f"{path} is a folder", hint="give one file of dialogues")
    opener: Callable[[Path, str], IO[bytes]] = gzip.open if path.suffix == ".gz" else open  # type: ignore[assignment]
    try:
        with opener(path, "rb") as file:
            start = file.read(64).removeprefix(_BOM).lstrip()
            file.seek(0)
            yield from _items(path, file) if start.startswith(b"[") else _lines(file)
    except (OSError, EOFError, zlib.error) as error:
        what = f"{path} cannot be read to its end"
        raise DialogueError(what, got=str(error), hint="fetch or write it again") from error


def _lines(file: IO[bytes]) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(iter(partial(file.readline, MAX_LINE_B + 1), b""), start=1):
        if len(line) > MAX_LINE_B:
            while line and not line.endswith(b"\n"):
                line = file.readline(MAX_LINE_B)
            yield f":{number}", _Fault(f"the line is longer than {MAX_LINE_B >> 20} MB; split it into dialogues")
        elif line.strip():
            yield f":{number}", _parse(line)


def _items(path: Path, file: IO[bytes]) -> Iterator[tuple[str, Any]]:
    if isinstance(array := _parse(file.read()), _Fault):
        raise DialogueError(f"{path} is not one JSON array", got=str(array), hint="write one JSON object a line")
    yield from ((f" item {i}", row) for i, row in enumerate(array, start=1))


def _parse(raw: bytes) -> Any:
    if raw.startswith(_BOM):
        return _Fault("a byte-order mark; save the file as UTF-8 without BOM")
    if b"\0" in raw:
        return _Fault("a NUL byte; remove it")
    try:
        return json.loads(raw.decode())
    except UnicodeDecodeError as error:
        return _Fault(f"not UTF-8 at byte {error.start}; save the file as UTF-8")
    except (ValueError, RecursionError) as error:
        why = str(error).split(": line")[0] or type(error).__name__
        return _Fault(f"not JSON ({why}); write one JSON object a line")


def _fields(row: Any, form: str | None) -> tuple[dict[str, Any], str]:
    """The row's fields, and the key that tells its form: one of `_FORMS`, or ``form`` of the rows before."""
    if isinstance(row, _Fault):
        raise row
    if not isinstance(row, dict):
        raise _Fault(f"a row must be a JSON object, not {_kind(row)}")
    if (key := next((key for key in ([form] if form else _FORMS) if key in row), None)) is not None:
        return row, key
    keys = ", ".join(list(row)[:5]) or "nothing"
    if form:
        raise _Fault(f"no {form} as in the rows before, but {keys}; keep to one form per file")
    raise _Fault(f"no messages, conversations or instruction, but {keys}; bring it into one of these forms")


def _dialogue(fields: dict[str, Any], form: str, *, name: str) -> Dialogue:
    messages = tuple(_alpaca(fields) if (names := _FORMS[form]) is None else _turns(fields[form], *names))
    _check_order(messages)
    own, source = fields.get("id"), fields.get("source")
    own = str(own) if isinstance(own, str | int) and str(own) else name
    return Dialogue(own, messages, source if isinstance(source, str) else "")


def _turns(turns: Any, who: str, what: str, roles: dict[str, Role]) -> Iterator[Message]:
    if not isinstance(turns, list) or not turns:
        raise _Fault("the list of messages is " + ("empty" if turns == [] else _kind(turns)) + "; give at least two")
    for i, turn in enumerate(turns, start=1):
        if not isinstance(turn, dict):
            raise _Fault(f"message {i} must be an object with {who} and {what}, not {_kind(turn)}")
        role = turn.get(who)
        if not isinstance(role, str) or role not in roles:
            raise _Fault(f"message {i}: unknown {who} {json.dumps(role)[:40]}; use {', '.join(roles)}")
        yield Message(roles[role], _text(turn.get(what), f"message {i}: {what}"))


def _alpaca(fields: dict[str, Any]) -> Iterator[Message]:
    instruction = _text(fields["instruction"], "instruction")
    more = "\n\n" + _text(fields["input"], "input") if fields.get("input") else ""
    yield Message("user", instruction + more)
    yield Message("assistant", _text(fields.get("output"), "output"))


def _text(value: Any, what: str) -> str:
    if isinstance(value, list):
        raise _Fault(f"{what} is a list of parts; join its texts into one string")
    if not isinstance(value, str):
        raise _Fault(f"{what} is {_kind(value)}; give a string")
    if not value.strip():
        raise _Fault(f"{what} is empty; remove the dialogue")
    if "\0" in value:
        raise _Fault(f"{what} holds a NUL character; remove it")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _Fault(f"{what} holds half of a surrogate pair; write the whole character") from None
    return value


def _check_order(messages: Sequence[Message]) -> None:
    roles = [m.role for m in messages]
    turns = roles[1:] if roles[0] == "system" else roles
    if "assistant" not in turns:
        raise _Fault("no assistant turn; remove the dialogue")
    if turns[0] == "assistant":
        raise _Fault("the assistant speaks first; begin with a user turn")
    for at, (before, role) in enumerate(pairwise(roles), start=2):
        if role == "system":
            raise _Fault(f"message {at}: a system message after the first; put it first or remove it")
        if role == before:
            raise _Fault(f"message {at}: two {role} turns in a row; join them or add the missing turn")
    if turns[-1] != "assistant":
        raise _Fault("the last message is the user's; add the reply or remove the message")


def _kind(value: Any) -> str:
    names = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list"}
    return names.get(type(value), "an object")
