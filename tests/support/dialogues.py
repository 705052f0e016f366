"""What a dialogue begins with."""

from __future__ import annotations

from halfwatt.dialogues.dialogue import Dialogue


def opening(dialogue: Dialogue) -> str:
    """The first user turn, case and white space levelled: what splits must not share."""
    return next(message.levelled for message in dialogue.messages if message.role == "user")
