"""What was run, on what, with which inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import halfwatt
from halfwatt.core import machine


@dataclass(frozen=True, slots=True)
class Provenance:
    """What was run, on what, with which inputs."""

    halfwatt: str
    created: str  # UTC, ISO 8601
    command: str
    seed: int
    model: str
    model_sha256: str
    dialogues: str
    dialogues_sha256: dict[str, str]  # split -> hash
    machine: dict[str, str] = field(default_factory=dict)  # cpu, cores, memory, kernel, governor
    versions: dict[str, str] = field(default_factory=dict)  # python and the packages that compute


def provenance(
    *, command: str, seed: int, model: str, model_sha256: str, dialogues: str, sha256: Mapping[str, str]
) -> Provenance:
    """Describe this run. ``sha256`` maps each split to the hash of its dialogues."""
    return Provenance(
        halfwatt=halfwatt.__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        seed=seed,
        model=model,
        model_sha256=model_sha256,
        dialogues=dialogues,
        dialogues_sha256=dict(sha256),
        machine=machine.machine(),
        versions=machine.versions(),
    )
