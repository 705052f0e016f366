"""Replies of original and winner side by side, as the gate read them on the sealed split, drawn by a seed: Markdown.

Beside each reply how much of its weight lies with its own dialogue, by the gate's judge (G7), where that was asked.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from halfwatt.dialogues.dialogue import Dialogue
from halfwatt.evaluate.fit import share_of_own
from halfwatt.evaluate.records import QualityInputs, ScoredReply

LONGEST = 700  # characters of a text that are shown


def side_by_side(inputs: QualityInputs, dialogues: Sequence[Dialogue], count: int, seed: int) -> Iterator[str]:
    """``count`` of the greedy replies, each with what was asked; paragraphs."""
    by_id = {dialogue.id: dialogue for dialogue in dialogues}
    pairs = [pair for pair in zip(inputs.replies_ref, inputs.replies_cand, strict=True) if pair[0].seed is None]
    fits = {(fit.dialogue, fit.turn): fit for fit in inputs.fit}
    for number, (theirs, ours) in enumerate(random.Random(seed).sample(pairs, min(count, len(pairs))), start=1):
        fit = fits.get((ours.dialogue, ours.turn))
        shares = ["", "", ""]
        if fit is not None:
            own = share_of_own([fit.people, fit.reference, fit.candidate])
            shares = [f", {share:.0%} its own dialogue's" for share in own]
        yield f"### {number}"
        asked = by_id[ours.dialogue].messages[: ours.turn]
        yield "\n".join(f"> **{message.role}:** {_shown(message.content)}  " for message in asked)
        yield f"**people**{shares[0]}: {_shown(ours.reference)}"
        yield f"**original**, {_tokens(theirs)}{shares[1]}: {_shown(theirs.text)}"
        yield f"**winner**, {_tokens(ours)}{shares[2]}: {_shown(ours.text)}"


def _tokens(reply: ScoredReply) -> str:
    return f"{reply.tokens} tokens" + ("" if reply.stopped else ", cut off")


def _shown(text: str) -> str:
    """On one line, and not all of what is very long."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else f"{line[:LONGEST]} [...]"
