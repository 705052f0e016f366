"""What a verb is given, as objects: the settings that all take, a model by name, a file of dialogues as splits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from halfwatt.core.errors import BadInput
from halfwatt.dialogues.dialogue import DialogueSet, Split
from halfwatt.dialogues.readers import read_dialogues
from halfwatt.dialogues.splits import by_source, split_set

FRACTIONS: dict[Split, float] = {"train": 0.3, "tune": 0.3, "test": 0.4}  # of a user's dialogues, by first user turn

MOST: dict[Split, int] = {"tune": 1000, "test": 2000}  # the gate needs no more to be sure: the rest is to learn from

MIN_TEST = 200  # dialogues that the gate wants at least

OUTSIDE = 64  # dialogues of each other kind, at most


def read_as(dialogues: str | Path | DialogueSet, split: Split) -> DialogueSet:
    """A set as it is; a file read as ``split``."""
    return dialogues if isinstance(dialogues, DialogueSet) else read_dialogues(Path(dialogues), split=split)


def chosen(model: str, given: str | Path | DialogueSet | None) -> DialogueSet:
    """The dialogues of a verb that judges nothing for good: the given ones, or the demo's tune split."""
    if given is not None:
        return read_as(given, "tune")
    if model != "demo" and not Path(model).exists():
        raise BadInput(f"no dialogues for {model}", hint="pass --dialogues FILE")
    from halfwatt import demo

    return demo.dialogues("tune")


def for_training(model: str, given: str | Path | DialogueSet | None) -> DialogueSet:
    """The dialogues that a step may learn from: the given ones, or the demo's training split."""
    if given is not None:
        return read_as(given, "train")
    if model != "demo":
        raise BadInput(f"no dialogues for {model}", hint="pass --dialogues FILE")
    from halfwatt import demo

    return demo.dialogues("train")


def sizes(n: int) -> dict[Split, float | int]:
    """Of the splits of ``n`` dialogues, for `split_set`.

    >>> sizes(500), sizes(10_000)
    ({'train': 0.3, 'tune': 150, 'test': 200}, {'train': 0.3, 'tune': 1000, 'test': 2000})
    """
    most = {split: max(1, min(round(FRACTIONS[split] * n), MOST[split])) for split in MOST}
    return {"train": FRACTIONS["train"], **most}


def splits(model: str, given: str | Path | DialogueSet | None, seed: int) -> dict[Split, DialogueSet]:
    """train, tune and test; the user's dialogues are split by first user turn.

    Raises:
        BadInput: no dialogues for a model that is not the demo, or too few to judge anything.
    """
    from halfwatt import demo

    if given is None:
        if model != "demo":
            raise BadInput(f"no dialogues for {model}", hint="pass --dialogues FILE")
        return {"train": demo.dialogues("train"), "tune": demo.dialogues("tune"), "test": demo.dialogues("test")}
    whole = read_as(given, "train")
    parts = split_set(whole, sizes(len(whole)), seed=seed)
    if len(parts["test"]) < 2 or len(parts["tune"]) < 2:
        raise BadInput(
            f"{len(whole)} dialogues are too few to choose on one part and judge on another",
            hint=f"give at least {round(MIN_TEST / FRACTIONS['test'])}, so that {MIN_TEST} are left for the gate",
        )
    return parts


def outside_of(
    dialogues: str | Path | DialogueSet | None, given: str | Path | DialogueSet | None
) -> dict[str, DialogueSet]:
    """Other dialogues than the user's own, by kind: the given ones, or the demo's unless they are the traffic."""
    from halfwatt import demo

    if given is not None:
        return by_source(read_as(given, "tune"), OUTSIDE)
    return {} if dialogues is None else by_source(demo.dialogues("tune"), OUTSIDE)


def origin(dialogues: str | Path | DialogueSet | None) -> str:
    """Where they came from, for the record."""
    if dialogues is None:
        return "demo"
    return "given in Python" if isinstance(dialogues, DialogueSet) else str(dialogues)


@contextmanager
def scratch(parent: Path | None = None) -> Iterator[Path]:
    """A folder for exports that are not kept."""
    with TemporaryDirectory(prefix=".halfwatt-", dir=parent) as folder:
        yield Path(folder)
