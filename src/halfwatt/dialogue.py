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
import hashlib
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Literal

from halfwatt.errors import BadInput, DialogueError
from halfwatt.files import write_atomic

Role = Literal["system", "user", "assistant"]
Split = Literal["train", "tune", "test"]

MAX_LINE_B = 8 << 20  # a longer line is not a dialogue
MAX_SKIPPED = 0.01  # share of a file's rows that --skip-bad may leave out
SHOWN = 10  # faults that an error lists


@dataclass(frozen=True, slots=True)
class Message:
    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Dialogue:
    """Messages in order; ``source`` names the kind of traffic ("home", "service", ...)."""

    id: str
    messages: tuple[Message, ...]
    source: str = ""

    def before(self, turn: int) -> Dialogue:
        """The prompt for the assistant message at index ``turn``: all messages before it."""
        return Dialogue(self.id, self.messages[:turn], self.source)

    @property
    def assistant_turns(self) -> tuple[int, ...]:
        """Indices of the assistant's messages."""
        return tuple(i for i, m in enumerate(self.messages) if m.role == "assistant")

    @property
    def opening(self) -> str:
        """The first user turn, case and white space levelled: what splits must not share."""
        first = next(m.content for m in self.messages if m.role == "user")
        return " ".join(first.casefold().split())


@dataclass(frozen=True, slots=True)
class DialogueSet:
    """Dialogues of one split."""

    dialogues: tuple[Dialogue, ...]
    split: Split
    licence: str
    sha256: str  # of the canonical JSON lines of exactly these dialogues
    skipped: tuple[str, ...] = ()  # faulty rows that were left out on request, each by file and line

    def __len__(self) -> int:
        return len(self.dialogues)

    @classmethod
    def of(
        cls, dialogues: Iterable[Dialogue], *, split: Split, licence: str, skipped: tuple[str, ...] = ()
    ) -> DialogueSet:
        """A set with its hash."""
        kept = tuple(dialogues)
        digest = hashlib.sha256()
        for dialogue in kept:
            digest.update(_canonical(dialogue))
        return cls(kept, split, licence, digest.hexdigest(), skipped)


def by_source(found: DialogueSet, most: int) -> dict[str, DialogueSet]:
    """The dialogues of each source, at most so many, evenly over the set; a source of a single dialogue is left out."""
    names = sorted({d.source for d in found.dialogues})
    groups = {name: [d for d in found.dialogues if d.source == name] for name in names}
    return {
        name or "other": DialogueSet.of(some[:: -(-len(some) // most)], split=found.split, licence=found.licence)
        for name, some in groups.items()
        if len(some) > 1
    }


@dataclass(frozen=True, slots=True)
class SealedSplit:
    """The test split, which judges one winner and no other. ``seal`` is the file that remembers for whom it was opened.

    The seal lies in the run's output folder and outlives the process: a run that was interrupted after the opening may
    open it again for the same winner, and for no other.
    """

    _dialogues: DialogueSet
    seal: Path

    def __len__(self) -> int:
        return len(self._dialogues)

    @property
    def sha256(self) -> str:
        """Hash of the dialogues inside."""
        return self._dialogues.sha256

    def open(self, winner: str) -> DialogueSet:
        """The dialogues, for the candidate with the fingerprint ``winner``.

        Raises:
            BadInput: it was opened for another candidate, or the seal is of other dialogues.
        """
        wanted = {"winner": winner, "test_sha256": self.sha256}
        if not self.seal.exists():
            record = wanted | {"opened": datetime.now(UTC).isoformat(timespec="seconds")}
            write_atomic(self.seal, json.dumps(record, indent=1).encode())
            return self._dialogues
        found = json.loads(self.seal.read_bytes())
        if any(found.get(key) != value for key, value in wanted.items()):
            raise BadInput(
                "the test split was opened already, and judges one winner only",
                found=f"opened {found.get('opened')} for {found.get('winner')}, now asked for {winner}",
                hint="its verdict stands; for a new one choose another -o folder and dialogues not seen yet",
            )
        return self._dialogues


def read(path: Path, *, split: Split = "train", licence: str = "unstated", skip_bad: bool = False) -> DialogueSet:
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


def split_set(found: DialogueSet, sizes: Mapping[Split, float | int], *, seed: int = 0) -> dict[Split, DialogueSet]:
    """Divide a set into train, tune and test, disjoint by first user turn.

    Dialogues with the same opening stay together, and a hash of seed and opening gives their order, so the division
    does not depend on the order of the file.

    Args:
        sizes: split -> share of all dialogues (float) or most dialogues (int). Test is filled first, then tune, each
            with whole groups of one opening; train takes what is left, up to its number if it has one.

    Raises:
        DialogueError: too few different openings to fill the splits that were asked for.
    """
    room: dict[Split, float] = {split: _count(sizes.get(split, 0), len(found)) for split in ("test", "tune")}
    room["train"] = sizes["train"] if isinstance(sizes.get("train"), int) else len(found)
    groups: dict[str, list[Dialogue]] = {}
    for dialogue in found.dialogues:
        groups.setdefault(dialogue.opening, []).append(dialogue)
    parts: dict[Split, list[Dialogue]] = {"train": [], "tune": [], "test": []}
    for opening in sorted(groups, key=lambda text: hashlib.sha256(f"{seed}\0{text}".encode()).digest()):
        group = groups[opening]
        fitting = next((split for split in room if len(parts[split]) + len(group) <= room[split]), None)
        if fitting is not None:
            parts[fitting] += group
    empty = [split for split, part in parts.items() if sizes.get(split) and not part]
    if empty:
        raise DialogueError(
            f"{len(found)} dialogues with {len(groups)} different first user turns cannot fill "
            + " and ".join(f"the {split} split" for split in empty),
            hint="give more dialogues",
        )
    return {split: DialogueSet.of(part, split=split, licence=found.licence) for split, part in parts.items()}


def _count(wanted: float | int, n: int) -> int:
    return wanted if isinstance(wanted, int) else round(wanted * n)


def _canonical(dialogue: Dialogue) -> bytes:
    messages = [[m.role, m.content] for m in dialogue.messages]
    row = {"id": dialogue.id, "messages": messages, "source": dialogue.source}
    return (json.dumps(row, ensure_ascii=False, separators=(",", ":"), sort_keys=True) + "\n").encode()


# --- rows ----------------------------------------------------------------------------------------------------------


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
        f"{len(faults)} of {rows} rows of {path} cannot be used", found="; ".join(faults[:SHOWN]) + more, hint=hint
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
            f"{path} cannot be read to its end", found=str(error), hint="fetch or write it again"
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
        raise DialogueError(f"{path} is not one JSON array", found=str(found), hint="write one JSON object a line")
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


# --- forms ---------------------------------------------------------------------------------------------------------

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
