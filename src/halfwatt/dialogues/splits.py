"""Sets of dialogues divided: train, tune and a sealed test, disjoint by first user turn."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from halfwatt.core.errors import BadInput, DialogueError
from halfwatt.core.files import write_atomic
from halfwatt.dialogues.dialogue import Dialogue, DialogueSet, Split


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
                got=f"opened {found.get('opened')} for {found.get('winner')}, now asked for {winner}",
                hint="its verdict stands; for a new one choose another -o folder and dialogues not seen yet",
            )
        return self._dialogues


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
