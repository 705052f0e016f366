"""What was run, on what, with which inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from halfwatt.core import machine
from halfwatt.core.settings import RunSettings
from halfwatt.dialogues.dialogue import DialogueSet


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
    settings: RunSettings,
    model: str,
    model_sha256: str,
    dialogues: str,
    *sets: DialogueSet,
    other: Mapping[str, str] | None = None,
) -> Provenance:
    """Of a run that begins now on this machine.

    Args:
        dialogues: where they came from.
        sets: all that are used, one of a split. other: hashes of further ones, by name
    """
    created = datetime.now(UTC).isoformat(timespec="seconds")
    hashes: dict[str, str] = {part.split: part.sha256 for part in sets} | dict(other or {})
    inputs = (settings.command, settings.seed, model, model_sha256, dialogues, hashes)
    return Provenance(machine.halfwatt_version(), created, *inputs, machine.machine(), machine.versions())
