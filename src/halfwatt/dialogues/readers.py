"""Dialogues: what a user hands us, with its split, licence and hash.

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
from pathlib import Path
from typing import IO, Any

from halfwatt.core.errors import DialogueError
from halfwatt.dialogues.dialogue import Dialogue, DialogueSet, Message, Role, Split

MAX_LINE_B = 8 << 20  # a longer line is not a dialogue

MAX_SKIPPED = 0.01  # share of a file's rows that --skip-bad may leave out

SHOWN = 10  # faults that an error lists


def read_dialogues(
    path: Path, *, split: Split = "train", licence: str = "unstated", skip_bad: bool = False
) -> DialogueSet:
    """Read a dialogue file.

    Args:
        skip_bad: leave faulty rows out when they are at most 1 % of all; `DialogueSet.skipped` names each.

    Raises:
        DialogueError: no such file, nothing in it, or faulty rows; lists the first ten by file and line.
    """
    faults: list[str] = []
    dialogues: dict[str, Dialogue] = {}
    rows, form = 0, None
    for rows, (place, row) in enumerate(_rows(path), start=1):
        try:
            if isinstance(row, _Fault):
                raise row
            form = form or _form_of(row)
            found = _dialogue(row, form, name=f"{path.name.split('.')[0]}-{rows}")
            key = found.id if found.id not in dialogues else f"{found.id}#{rows}"  # files repeat ids; results must not
            dialogues[key] = Dialogue(key, found.messages, found.source)
        except _Fault as fault:
            faults.append(f"{path.name}{place}: {fault}")
    if not rows:
        raise DialogueError(f"{path} is empty", hint="give a file with one dialogue a line")
    if faults and not (skip_bad and len(faults) <= MAX_SKIPPED * rows):
        raise _faulty(path, faults, rows, skip_bad)
    return DialogueSet.of(dialogues.values(), split=split, licence=licence, skipped=tuple(faults))


class _Fault(Exception):
    """What is wrong with one row, and what to do."""


def _faulty(path: Path, faults: Sequence[str], rows: int, skip_bad: bool) -> DialogueError:
    more = f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
    hint = "correct them"
    if skip_bad:
        hint += f" (--skip-bad leaves out at most {MAX_SKIPPED:.0%} of the rows)"
    elif len(faults) <= MAX_SKIPPED * rows:
        hint += ", or leave them out with --skip-bad"
    return DialogueError(
        f"{len(faults)} of {rows} rows of {path} cannot be used", got="; ".join(faults[:SHOWN]) + more, hint=hint
    )


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Each row with its place in the file: ``(":12", {...})``, or a `_Fault` instead of the row."""
    if not path.exists():
        raise DialogueError(f"there is no file {path}", hint="give a .jsonl, .jsonl.gz or .json file of dialogues")
    if path.is_dir():
        raise DialogueError(f"{path} is a folder", hint="give one file of dialogues")
    opener: Callable[[Path, str], IO[bytes]] = gzip.open if path.suffix == ".gz" else open  # type: ignore[assignment]
    try:
        with opener(path, "rb") as file:
            start = file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()
            file.seek(0)
            yield from _array(path, file) if start.startswith(b"[") else _lines(file)
    except (OSError, EOFError, zlib.error) as error:
        raise DialogueError(
            f"{path} cannot be read to its end", got=str(error), hint="fetch or write it again"
        ) from error


def _lines(file: IO[bytes]) -> Iterator[tuple[str, Any]]:
    number = 0
    while line := file.readline(MAX_LINE_B + 1):
        number += 1
        if len(line) > MAX_LINE_B:
            while line and not line.endswith(b"\n"):
                line = file.readline(MAX_LINE_B)
            yield f":{number}", _Fault(f"the line is longer than {MAX_LINE_B >> 20} MB; split it into dialogues")
        elif line.strip():
            yield f":{number}", _parsed(line)


def _array(path: Path, file: IO[bytes]) -> Iterator[tuple[str, Any]]:
    found = _parsed(file.read())
    if isinstance(found, _Fault):
        raise DialogueError(f"{path} is not one JSON array", got=str(found), hint="write one JSON object a line")
    yield from ((f" item {i}", row) for i, row in enumerate(found, start=1))


def _parsed(raw: bytes) -> Any:
    if raw.startswith(b"\xef\xbb\xbf"):
        return _Fault("a byte-order mark; save the file as UTF-8 without BOM")
    if b"\0" in raw:
        return _Fault("a NUL byte; remove it")
    try:
        return json.loads(raw.decode())
    except UnicodeDecodeError as error:
        return _Fault(f"not UTF-8 at byte {error.start}; save the file as UTF-8")
    except (ValueError, RecursionError) as error:
        return _Fault(
            f"not JSON ({str(error).split(': line')[0] or type(error).__name__}); write one JSON object a line"
        )


_SHAREGPT_ROLES: dict[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}

_MESSAGE_ROLES: dict[str, Role] = {"user": "user", "assistant": "assistant", "system": "system"}


def _form_of(row: Any) -> str:
    """The key that tells a row's form: "messages", "conversations" or "instruction"."""
    if not isinstance(row, dict):
        raise _Fault(f"a row must be a JSON object, not {_kind(row)}")
    for key in ("messages", "conversations", "instruction"):
        if key in row:
            return key
    raise _Fault(f"no messages, conversations or instruction, but {_listed(row)}; bring it into one of these forms")


def _dialogue(row: Any, form: str, *, name: str) -> Dialogue:
    if not isinstance(row, dict):
        raise _Fault(f"a row must be a JSON object, not {_kind(row)}")
    if form not in row:
        raise _Fault(f"no {form} as in the rows before, but {_listed(row)}; keep to one form per file")
    if form == "instruction":
        messages = _alpaca(row)
    else:
        keys = ("role", "content") if form == "messages" else ("from", "value")
        messages = _turns(row[form], *keys, roles=_MESSAGE_ROLES if form == "messages" else _SHAREGPT_ROLES)
    _check_order(messages)
    own, source = row.get("id"), row.get("source")
    own = str(own) if isinstance(own, str | int) and str(own) else name
    return Dialogue(own, messages, source if isinstance(source, str) else "")


def _turns(found: Any, who: str, what: str, *, roles: dict[str, Role]) -> tuple[Message, ...]:
    if not isinstance(found, list) or not found:
        raise _Fault("the list of messages is " + ("empty" if found == [] else _kind(found)) + "; give at least two")
    messages = []
    for i, entry in enumerate(found, start=1):
        if not isinstance(entry, dict):
            raise _Fault(f"message {i} must be an object with {who} and {what}, not {_kind(entry)}")
        role = entry.get(who)
        if not isinstance(role, str) or role not in roles:
            raise _Fault(f"message {i}: unknown {who} {json.dumps(role)[:40]}; use {', '.join(roles)}")
        messages.append(Message(roles[role], _text(entry.get(what), f"message {i}: {what}")))
    return tuple(messages)


def _alpaca(row: dict[str, Any]) -> tuple[Message, ...]:
    asked = _text(row["instruction"], "instruction")
    if row.get("input"):
        asked += "\n\n" + _text(row["input"], "input")
    return Message("user", asked), Message("assistant", _text(row.get("output"), "output"))


def _text(found: Any, what: str) -> str:
    if isinstance(found, list):
        raise _Fault(f"{what} is a list of parts; join its texts into one string")
    if not isinstance(found, str):
        raise _Fault(f"{what} is {_kind(found)}; give a string")
    if not found.strip():
        raise _Fault(f"{what} is empty; remove the dialogue")
    if "\0" in found:
        raise _Fault(f"{what} holds a NUL character; remove it")
    try:
        found.encode()
    except UnicodeEncodeError:
        raise _Fault(f"{what} holds half of a surrogate pair; write the whole character") from None
    return found


def _check_order(messages: Sequence[Message]) -> None:
    roles = [m.role for m in messages]
    turns = roles[1:] if roles[0] == "system" else roles
    if "assistant" not in turns:
        raise _Fault("no assistant turn; remove the dialogue")
    for i, role in enumerate(turns):
        wanted = "assistant" if i % 2 else "user"
        if role == wanted:
            continue
        at = len(roles) - len(turns) + i + 1
        if role == "system":
            raise _Fault(f"message {at}: a system message after the first; put it first or remove it")
        if i == 0:
            raise _Fault("the assistant speaks first; begin with a user turn")
        raise _Fault(f"message {at}: two {role} turns in a row; join them or add the missing turn")
    if turns[-1] != "assistant":
        raise _Fault("the last message is the user's; add the reply or remove the message")


def _kind(found: Any) -> str:
    names = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list"}
    return names.get(type(found), "an object")


def _listed(row: dict[str, Any]) -> str:
    return ", ".join(map(str, list(row)[:5])) or "nothing"
