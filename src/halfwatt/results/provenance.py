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
    """Of a run that begins now on this machine. ``sha256``: of the dialogues, by split."""
    created = datetime.now(UTC).isoformat(timespec="seconds")
    inputs = (command, seed, model, model_sha256, dialogues, dict(sha256))
    return Provenance(halfwatt.__version__, created, *inputs, machine.machine(), machine.versions())
