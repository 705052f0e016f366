"""How a model was made, and what stayed at higher precision."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from halfwatt.core.json_records import read_own
from halfwatt.meters.cost import Cost


@dataclass(frozen=True, slots=True)
class Origin:
    """How a model was made, oldest first, and what each training in it has used; ``halfwatt.json`` in its folder."""

    lineage: tuple[str, ...]
    spent: tuple[Cost, ...] = ()


@dataclass(frozen=True, slots=True)
class KeptLayer:
    """A tensor that stayed at higher precision, and why."""

    tensor: str
    kept_as: str
    reason: str


ORIGIN = "halfwatt.json"  # beside the files that every loader knows


def read_origin(folder: Path) -> Origin | None:
    """How the model in ``folder`` was made; None where halfwatt did not write it.

    Raises:
        ModelError: the record cannot be read.
    """
    path = folder / ORIGIN
    return read_own(path, Origin) if path.exists() else None
