"""Finished stages of a run, one file each, so that an interrupted run goes on where it stopped.

A stage is written whole (temp, fsync, rename) or not at all, so after a crash it is either there or computed again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from halfwatt.core.errors import BadInput
from halfwatt.core.files import write_atomic
from halfwatt.core.json_records import from_json, to_json
from halfwatt.meters.base import EnergyMeter
from halfwatt.meters.cost import RunCost

T = TypeVar("T")


class StageStore:
    """The folder of finished stages of one run, and what they took together.

    Raises:
        BadInput: the folder holds the stages of another run (other model, dialogues, margin, seed or version).
    """

    def __init__(self, folder: Path, identity: dict[str, str], meter: EnergyMeter | None = None) -> None:
        self.folder, self.tally = folder, RunCost(folder / "sittings", meter)
        folder.mkdir(parents=True, exist_ok=True)
        stamp = folder / "run.json"
        if not stamp.exists():
            write_atomic(stamp, json.dumps(identity, indent=1).encode())
        found = json.loads(stamp.read_text())
        changed = sorted(k for k in identity.keys() | found.keys() if identity.get(k) != found.get(k))
        if changed:
            raise BadInput(
                f"{folder.parent} holds a run with another {', '.join(changed)}",
                hint="choose another -o folder, or remove this one",
            )

    def has(self, stage: str) -> bool:
        """Is this stage finished?"""
        return self._path(stage).exists()

    def once(self, stage: str, kind: type[T], compute: Callable[[], T]) -> T:
        """The stored result of ``stage``; computed and stored when there is none yet."""
        if self.has(stage):
            return from_json(self._path(stage).read_bytes(), kind)
        result = compute()
        write_atomic(self._path(stage), to_json(result).encode())
        self.tally.note()
        return result

    def _path(self, stage: str) -> Path:
        return self.folder / f"{stage}.json"
