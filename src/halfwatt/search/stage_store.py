"""Finished work of a run, one file each, so that an interrupted run goes on where it stopped.

    stages/run.json           what the run is about; another run is refused
    stages/STAGE-HASH.json    what a stage came to; HASH names all that went in, but not where artifacts lie
    stages/NAME.json          what has a name of its own, such as a whole candidate

A file is written whole (temp, fsync, rename) or not at all: after a crash it is either there or computed again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic_core import to_jsonable_python

from halfwatt.core.errors import BadInput
from halfwatt.core.files import write_atomic
from halfwatt.core.json_records import from_json, to_json
from halfwatt.meters.base import EnergyMeter
from halfwatt.meters.cost import RunCost

T = TypeVar("T")


class StageStore:
    """The folder of one run's finished work, and what all of it cost. Raises BadInput where it holds another run."""

    def __init__(self, folder: Path, identity: Mapping[str, str], meter: EnergyMeter | None = None) -> None:
        self.folder, self.cost = folder, RunCost(folder / "sittings", meter)
        folder.mkdir(parents=True, exist_ok=True)
        stamp = folder / "run.json"
        if not stamp.exists():
            write_atomic(stamp, json.dumps(dict(identity), indent=1).encode())
        before, hint = json.loads(stamp.read_text()), "choose another -o folder, or remove this one"
        if changed := sorted(k for k in identity.keys() | before.keys() if identity.get(k) != before.get(k)):
            raise BadInput(f"{folder.parent} holds a run with another {', '.join(changed)}", hint=hint)

    def has(self, name: str) -> bool:
        """Is it finished?"""
        return (self.folder / f"{name}.json").exists()

    def once(self, name: str, kind: type[T], compute: Callable[[], T]) -> T:
        """What is stored as ``name``; computed and stored when there is nothing yet."""
        path = self.folder / f"{name}.json"
        if path.exists():
            return from_json(path.read_bytes(), kind)
        result = compute()
        write_atomic(path, to_json(result).encode())
        self.cost.note()
        return result

    def run(self, stage: str, order: Any, kind: type[T], compute: Callable[[], T]) -> T:
        """What ``stage`` came to for this ``order``, a frozen record of all that goes in."""
        return self.once(f"{stage}-{hash_of(order)}", kind, compute)


def hash_of(order: Any) -> str:
    """16 hex digits that change with all of a record but the paths of artifacts: the output folder may be moved."""
    text = json.dumps(_without_paths(to_jsonable_python(order)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _without_paths(plain: Any) -> Any:
    if isinstance(plain, dict):
        return {key: _without_paths(value) for key, value in plain.items() if key != "path"}
    return [_without_paths(value) for value in plain] if isinstance(plain, list) else plain
