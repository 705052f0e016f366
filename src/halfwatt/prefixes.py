"""What the first steps of a recipe made, kept on disk: a recipe that begins alike, or goes on, finds it finished.

    WORK/<fingerprint of the steps so far>/made     a Hugging Face folder, and made.json: what such a folder cannot tell

Only models that lie on no grid are kept here; what a step of integers makes is kept as an artifact.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from halfwatt.chat_model import ChatModel, load, write
from halfwatt.errors import BadInput
from halfwatt.files import new_folder, require_space
from halfwatt.records import Spent, from_json, to_json

_FILE = "made.json"


@dataclass(frozen=True, slots=True)
class _Made:
    """How the model was made, and what each training has used."""

    lineage: tuple[str, ...]
    spent: tuple[Spent, ...]


def find(folder: Path, before: ChatModel) -> ChatModel | None:
    """What was kept in ``folder``, on the device of ``before``, the model that its step was given; None = nothing."""
    if not (folder / _FILE).exists():
        return None
    told = from_json((folder / _FILE).read_bytes(), _Made)
    made = load(folder, device=str(before.network.device))
    return replace(before, network=made.network, tokenizer=made.tokenizer, lineage=told.lineage, spent=told.spent)


def keep(model: ChatModel, folder: Path) -> None:
    """Write ``model`` to ``folder``: all of it or nothing.

    Raises:
        EnvironmentFault: the disk is too full.
    """
    require_space(folder, sum(p.nbytes for p in model.network.parameters()))
    try:
        with new_folder(folder) as part:
            write(model, part)
            (part / _FILE).write_text(to_json(_Made(model.lineage, model.spent)))
    except (OSError, BadInput):
        if not (folder / _FILE).exists():  # else another process was faster, and made the same
            raise
