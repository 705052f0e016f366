"""Makes the demo's dialogues: what ships in three splits, and what the demo model is trained on.

    python -m scripts.demo_model.prepare --data FOLDER   writes src/halfwatt/demo/dialogues.{train,tune,test}.jsonl.gz

FOLDER holds ``{home,service,support,chitchat}.{train,dev}.jsonl.gz``. tune and test are taken from the dev files only.
No first user turn (case and spacing aside) occurs in two splits, and none of tune or test occurs in the training
corpus: training dialogues that share one are left out. The support set is anonymised with ``{{placeholders}}``; they
are filled with the details of one made-up company, so that the replies read as a customer would see them.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from halfwatt import demo
from halfwatt.core.files import write_atomic

SOURCES = ("home", "service", "support", "chitchat")
TUNE = {"home": 110, "service": 110, "support": 70, "chitchat": 70}
TEST = {"home": 230, "service": 230, "support": 140, "chitchat": 150}
CALIBRATION = {"home": 600, "service": 600, "support": 400, "chitchat": 400}
MAX_MESSAGES = 8

Row = dict[str, Any]

# What the placeholders of the support set become; the first pattern that occurs in the name wins.
_COMPANY = (
    ("phone number|toll-free|hotline|call", "555-0137"),
    ("email|e-mail", "help@brightmart.example"),
    ("availability|hours|working|operating", "8 am to 8 pm, Monday to Saturday"),
    ("url|link|website|site|portal|platform|app|company|store|brand|online", "Brightmart"),
    ("order number|order id|order reference|tracking number|bill number|invoice number|purchase id", "10482"),
    ("currency|amount|cost|fee|price|value|balance", "25 dollars"),
    ("days|duration|time ?frame|timeframe|period|processing time", "5 to 7 business days"),
    ("date", "March 12"),
    ("person|client|customer name|first name|last name|user ?name|full name|salutation", "Alex Morgan"),
    ("city|country|region", "Springfield"),
    ("product|item|model", "item"),
    ("live chat|chat", "Live Chat"),
)


def corpus(data: Path) -> dict[str, list[Row]]:
    """The training dialogues by source, without any first user turn of tune or test."""
    held_out = {first_turn(row) for rows in (tune(data), test(data)) for row in rows}
    return {
        source: [row for row in read(data, source, "train") if first_turn(row) not in held_out] for source in SOURCES
    }


def tune(data: Path) -> list[Row]:
    """The dialogues for choosing."""
    return _take(data, TUNE, skip={})


def test(data: Path) -> list[Row]:
    """The sealed dialogues: the next ones after tune's in the same shuffled order."""
    return _take(data, TEST, skip=TUNE)


def read(data: Path, source: str, part: str) -> list[Row]:
    """Rows of one file: id, source, messages; placeholders filled."""
    with gzip.open(data / f"{source}.{part}.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [_row(json.loads(line), source) for line in lines]


def first_turn(row: Row) -> str:
    """What two dialogues may not share across splits."""
    return " ".join(row["messages"][0]["content"].casefold().split())


def fill(text: str) -> str:
    """Placeholders become details of one company; an unknown one keeps its own words, as in ``{{My Orders}}``."""
    return re.sub(r"\{\{\s*([^{}]*?)\s*\}\}", lambda match: _detail(match[1]), text)


def _detail(name: str) -> str:
    if name.isdigit():
        return "10482"
    lowered = name.casefold()
    for pattern, detail in _COMPANY:
        if re.search(rf"\b(?:{pattern})\b", lowered):
            return detail
    return name


def _row(raw: Row, source: str) -> Row:
    messages = [{"role": m["role"], "content": fill(m["content"]).strip()} for m in raw["messages"]]
    return {"id": raw["id"], "source": source, "messages": messages}


def _take(data: Path, counts: dict[str, int], skip: dict[str, int]) -> list[Row]:
    """``wanted`` dev dialogues a source with distinct first turns, in an order that hangs on their content alone.

    Dialogues whose first turn does not occur in the training file come first, so that little training data is lost.
    """
    dialogues: list[Row] = []
    for source in SOURCES:
        seen_in_training = {first_turn(row) for row in read(data, source, "train")}
        rows = {first_turn(row): row for row in read(data, source, "dev")}
        order = sorted(rows, key=lambda turn: (turn in seen_in_training, _digest(turn)))
        start = skip.get(source, 0)
        dialogues += [_cut(rows[turn]) for turn in order[start : start + counts[source]]]
    return sorted(dialogues, key=lambda row: _digest(first_turn(row)))


def _cut(row: Row) -> Row:
    return row | {"messages": row["messages"][:MAX_MESSAGES]}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def write(rows: Sequence[Row], to: Path) -> None:
    """JSON lines, gzip without a time stamp: the same rows give the same bytes."""
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as file:
        for row in rows:
            file.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
    write_atomic(to, buffer.getvalue())


def calibration(rows: dict[str, list[Row]]) -> list[Row]:
    """A sample of the training corpus to ship."""
    sample: list[Row] = []
    for source, count in CALIBRATION.items():
        distinct = {first_turn(row): _cut(row) for row in rows[source]}
        sample += [distinct[turn] for turn in sorted(distinct, key=_digest)[:count]]
    return sorted(sample, key=lambda row: _digest(first_turn(row)))


def main(arguments: Iterable[str] | None = None) -> None:
    """Write the three files that ship."""
    parser = argparse.ArgumentParser(description="Make the demo's dialogues.")
    parser.add_argument("--data", type=Path, required=True, help="the folder with the four sources")
    parser.add_argument("--out", type=Path, default=Path(demo.__file__).parent, help="where the three files go")
    args = parser.parse_args(None if arguments is None else list(arguments))
    splits = {"train": calibration(corpus(args.data)), "tune": tune(args.data), "test": test(args.data)}
    for split, rows in splits.items():
        write(rows, args.out / f"dialogues.{split}.jsonl.gz")


if __name__ == "__main__":
    main()
