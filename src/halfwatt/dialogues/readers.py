"""Dialogue files, read and checked: JSON lines (also .gz), one JSON array, tables (`halfwatt.dialogues.tables`); of
rows see `halfwatt.dialogues.rows`.

A sound dialogue is: a system message or none, then user and assistant in turns, the last word the assistant's. Every
row that is not is named by file and line. Nothing is repaired, and nothing dropped in silence.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, Any

from halfwatt.core.errors import DialogueError
from halfwatt.dialogues.dialogue import Dialogue, DialogueSet, Split, first_faults
from halfwatt.dialogues.rows import Fault, dialogue_of
from halfwatt.dialogues.tables import PARQUET, table_rows

MAX_LINE_B = 8 << 20  # a longer line is not a dialogue
MAX_SKIPPED = 0.01  # share of a file's rows that --skip-bad may leave out

_BOM = b"\xef\xbb\xbf"


def read_dialogues(
    path: Path,
    *,
    split: Split = "train",
    licence: str = "unstated",
    skip_bad: bool = False,
    ignore: Collection[str] = (),
) -> DialogueSet:
    """Read a dialogue file. ``skip_bad`` leaves out faulty rows, at most 1 % of all; `DialogueSet.skipped` names each.

    ignore: keys of rows or messages to leave alone, though they mean something that is not honoured

    Raises:
        DialogueError: no such file, nothing in it, or faulty rows; lists the first ten by file and line.
    """
    faults: list[str] = []
    dialogues: dict[str, Dialogue] = {}
    count = 0
    for count, (place, row) in enumerate(_rows(path), start=1):
        try:
            dialogue = dialogue_of(row, name=f"{path.name.split('.')[0]}-{count}", ignore=ignore)
        except Fault as fault:
            faults.append(f"{path.name}{place}: {fault}")
            continue
        key = dialogue.id
        while key in dialogues:  # files repeat ids; we do not
            key += f"#{count}"
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
    """Each row with its place in the file: ``(":12", {...})``, or a `Fault` instead of the row."""
    try:
        there, is_folder = path.exists(), path.is_dir()
    except OSError as error:  # a name that no system takes
        raise DialogueError("there can be no such file", got=str(error)[:200]) from error
    if not there:
        raise DialogueError(
            f"there is no file {path}", hint="give a .jsonl, .jsonl.gz, .json or .parquet file of dialogues"
        )
    if is_folder or path.suffix.lower() == PARQUET:
        yield from table_rows(path)
        return
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
            yield f":{number}", Fault(f"the line is longer than {MAX_LINE_B >> 20} MB; split it into dialogues")
        elif line.strip():
            yield f":{number}", _parse(line)


def _items(path: Path, file: IO[bytes]) -> Iterator[tuple[str, Any]]:
    if isinstance(array := _parse(file.read()), Fault):
        raise DialogueError(f"{path} is not one JSON array", got=str(array), hint="write one JSON object a line")
    yield from ((f" item {i}", row) for i, row in enumerate(array, start=1))


def _parse(raw: bytes) -> Any:
    if raw.startswith(_BOM):
        return Fault("a byte-order mark; save the file as UTF-8 without BOM")
    if b"\0" in raw:
        return Fault("a NUL byte; remove it")
    try:
        return json.loads(raw.decode())
    except UnicodeDecodeError as error:
        return Fault(f"not UTF-8 at byte {error.start}; save the file as UTF-8")
    except (ValueError, RecursionError) as error:
        why = str(error).split(": line")[0] or type(error).__name__
        return Fault(f"not JSON ({why}); write one JSON object a line")
