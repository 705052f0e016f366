"""A saving that was planted: so much a token, so many tokens fewer."""

from __future__ import annotations

import random

import pytest

from halfwatt.core.errors import BadInput
from halfwatt.evaluate.records import QualityInputs, ScoredReply, Window
from halfwatt.evaluate.saving_explained import SavingExplained, explain_saving
from halfwatt.formats.artifact import Parity
from halfwatt.meters.base import Usage

A_TOKEN, FEWER, PEOPLE = 16.0, 3.0, 2.0


def window(arm: str, block: int, cpu_s_a_token: float, tokens: int) -> Window:
    end = Usage(tokens * cpu_s_a_token, tokens * cpu_s_a_token, 0)
    return Window(arm, block, "reply", 0.0, 1.0, {}, (Usage(0.0, 0.0, 0), end), replies=4, tokens_out=tokens)


def reply(name: str, tokens: int, reference: int) -> ScoredReply:
    return ScoredReply(name, 1, None, "x" * 4 * tokens, tokens, True, 900, "y" * 4 * reference)


def planted(dialogues: int = 400, shortest: float = FEWER) -> SavingExplained:
    """Replies of the base are 30 to 900 tokens long, so that few windows say little of the ratio a reply."""
    draw = random.Random(0)
    lengths = [draw.choice((30, 60, 90, 900)) for _ in range(dialogues)]
    theirs = tuple(reply(f"d{n}", length, round(length / PEOPLE)) for n, length in enumerate(lengths))
    ours = tuple(reply(f"d{n}", round(length / shortest), 1) for n, length in enumerate(lengths))
    windows = []
    for block in range(8):
        jitter, tokens = draw.uniform(0.98, 1.02), 4 * draw.choice(lengths)
        windows += [window("B1", block, 0.016 * jitter, tokens), window("winner", block, 0.016 / A_TOKEN, tokens // 3)]
    sampled = ScoredReply("d0", 1, 7, "", 10_000, False, 900, "")
    parity = Parity(1, 1, True, True, True, True, 0.0, 0.0, 1.0)
    return explain_saving("B1", "winner", windows, QualityInputs(parity, (), (*theirs, sampled), (*ours, sampled)))


def test_each_cause_is_what_was_planted_and_their_product_the_saving() -> None:
    found = planted()
    for estimate, truth in ((found.a_token, A_TOKEN), (found.fewer_tokens, FEWER), (found.people, PEOPLE)):
        assert estimate.lo <= truth * 1.01
        assert estimate.hi >= truth * 0.99
        assert estimate.mean == pytest.approx(truth, rel=0.02)
    both = found.together
    assert both.mean == pytest.approx(A_TOKEN * FEWER, rel=0.02)
    assert both.lo < both.mean < both.hi
    assert both.hi / both.lo >= max(e.hi / e.lo for e in (found.a_token, found.fewer_tokens)), "both are uncertain"


def test_what_is_shorter_than_people_are_does_not_count() -> None:
    assert planted().counted.mean == pytest.approx(A_TOKEN * PEOPLE, rel=0.02)
    assert planted(shortest=1.5).counted.mean == pytest.approx(A_TOKEN * 1.5, rel=0.02)


def test_one_dialogue_has_no_interval() -> None:
    with pytest.raises(BadInput, match="two or more dialogues"):
        planted(dialogues=1)
