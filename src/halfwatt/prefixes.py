"""What the first steps of a recipe made, kept on disk: a recipe that begins alike, or goes on, finds it finished.

    WORK/<fingerprint of the steps so far>/made     a model folder as `ChatModel.save` writes it

Only models that lie on no grid are kept here; what a step of integers makes is kept as an artifact.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from halfwatt.chat_model import ORIGIN, ChatModel, load
from halfwatt.errors import BadInput


def find(folder: Path, before: ChatModel) -> ChatModel | None:
    """What was kept in ``folder``, on the device of ``before``, the model that its step was given; None = nothing."""
    if not (folder / ORIGIN).exists():
        return None
    made = load(folder, device=str(before.network.device))
    return replace(before, network=made.network, tokenizer=made.tokenizer, lineage=made.lineage, spent=made.spent)


def keep(model: ChatModel, folder: Path) -> None:
    """Write ``model`` to ``folder``: all of it or nothing.

    Raises:
        EnvironmentFault: the disk is too full.
    """
    try:
        model.save(folder)
    except (OSError, BadInput):
        if not (folder / ORIGIN).exists():  # else another process was faster, and made the same
            raise
