"""Sets of dialogues divided: train, tune and a sealed test, disjoint by first user turn.

Two dialogues that open alike are nearly the same question, so a split that holds one of them must hold both: else what
is judged was also learnt from. Where very many open alike, with "Hello" say, what users say next is the question. The
test split is sealed, for a set that judges many candidates chooses among them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from operator import attrgetter
from pathlib import Path

from halfwatt.core.errors import BadInput, DialogueError
from halfwatt.core.files import write_atomic
from halfwatt.dialogues.dialogue import Dialogue, DialogueSet, Split

_FEW = 8  # dialogues that may always open alike


def split_set(whole: DialogueSet, sizes: Mapping[Split, float | int], *, seed: int = 0) -> dict[Split, DialogueSet]:
    """Divide a set into train, tune and test, disjoint by first user turn, or by the first few where many open alike.

    Dialogues with the same opening stay together, and a hash of seed and opening gives their order, so the division
    does not depend on the order of the file. Where more open alike than a quarter of the tune or test split
    (and `_FEW`), the second user turn counts too, then the third. System messages do not: they may hold a clock.

    Args:
        sizes: split -> share of all dialogues (float) or most dialogues (int). Test is filled first, then tune, each
            with whole groups of one opening; train takes what is left, up to its number if it has one.

    Raises:
        DialogueError: too few different openings to fill the splits that were asked for.
    """
    most: dict[Split, int] = {s: n if isinstance(n, int) else round(n * len(whole)) for s, n in sizes.items()}
    train = most["train"] if isinstance(sizes.get("train"), int) else len(whole)
    room: dict[Split, int] = {"test": most.get("test", 0), "tune": most.get("tune", 0), "train": train}
    most_alike = max(_FEW, min(filter(None, (room["test"], room["tune"])), default=len(whole)) // 4)
    turns = [tuple(m.levelled for m in d.messages if m.role == "user") for d in whole.dialogues]
    groups = dict(_told_apart((), list(zip(turns, whole.dialogues, strict=True)), most_alike))
    parts: dict[Split, list[Dialogue]] = {"train": [], "tune": [], "test": []}
    for _, group in sorted(groups.items(), key=lambda item: _place(seed, item[0])):
        if fitting := next((split for split in room if len(parts[split]) + len(group) <= room[split]), None):
            parts[fitting] += group
    if empty := [f"the {split} split" for split, part in parts.items() if sizes.get(split) and not part]:
        given = f"{len(whole)} dialogues with {len(groups)} different beginnings"
        raise DialogueError(f"{given} cannot fill {' and '.join(empty)}", hint="give more dialogues")
    return {split: whole.subset(part, split) for split, part in parts.items()}


def _place(seed: int, said: tuple[str, ...]) -> bytes:
    return hashlib.sha256("\0".join((str(seed), *said)).encode()).digest()


def _told_apart(
    said: tuple[str, ...], group: Sequence[tuple[tuple[str, ...], Dialogue]], most: int
) -> Iterator[tuple[tuple[str, ...], list[Dialogue]]]:
    """By their first user turn; where more than ``most`` say the same, by the next one, as long as somebody goes on.

    group: dialogues that begin with ``said``, each with what its user says
    """
    if said and (len(group) <= most or all(turns == said for turns, _ in group)):
        yield said, [dialogue for _, dialogue in group]
        return
    groups: dict[tuple[str, ...], list[tuple[tuple[str, ...], Dialogue]]] = {}
    for turns, dialogue in group:
        groups.setdefault(turns[: len(said) + 1], []).append((turns, dialogue))
    for longer, some in groups.items():
        yield from _told_apart(longer, some, most)


def by_source(whole: DialogueSet, most: int) -> dict[str, DialogueSet]:
    """The dialogues of each source, at most so many, evenly over the set; a source of a single dialogue is left out."""
    source = attrgetter("source")
    groups = {name: list(group) for name, group in groupby(sorted(whole.dialogues, key=source), key=source)}
    evenly = {name or "other": group[:: -(-len(group) // most)] for name, group in groups.items() if len(group) > 1}
    return {name: whole.subset(group) for name, group in evenly.items()}


@dataclass(frozen=True, slots=True)
class SealedSplit:
    """The test split, which judges one winner and no other.

    ``seal`` is the file that remembers for whom it was opened, also when the run is interrupted and goes on.
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
        opening = {"winner": winner, "test_sha256": self.sha256}
        if not self.seal.exists():
            record = opening | {"opened": datetime.now(UTC).isoformat(timespec="seconds")}
            write_atomic(self.seal, json.dumps(record, indent=1).encode())
        record = json.loads(self.seal.read_bytes())
        if any(record.get(key) != value for key, value in opening.items()):
            got = f"opened {record.get('opened')} for {record.get('winner')}, now asked for {winner}"
            hint = "its verdict stands; for a new one choose another -o folder and dialogues not seen yet"
            raise BadInput("the test split was opened already, and judges one winner only", got=got, hint=hint)
        return self._dialogues
