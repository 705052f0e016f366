"""Who is asked about what fits, what a share says, and that each party's scores end up with its own turn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from halfwatt.dialogues.dialogue import Dialogue, Message
from halfwatt.evaluate import fit
from halfwatt.evaluate.records import ScoredReply
from halfwatt.evaluate.requests import Workload
from halfwatt.formats.artifact import Artifact
from halfwatt.models.sampling import Sampling
from halfwatt.runtimes.base import OperatingPoint
from halfwatt.runtimes.serving_process import ServingSpec


def dialogue(n: int) -> Dialogue:
    words = (("user", f"ask {n}"), ("assistant", f"say {n}"), ("user", f"more {n}"), ("assistant", f"then {n}"))
    return Dialogue(f"d{n}", tuple(Message(*word) for word in words), source="ab"[n % 2])  # type: ignore[arg-type]


def workload(count: int, asked: int) -> Workload:
    dialogues = tuple(dialogue(n) for n in range(count))
    return Workload(dialogues, None, Sampling(), 12, (), (), 3, asked, 5)  # type: ignore[arg-type]


@pytest.mark.parametrize(("count", "asked", "sizes"), [(30, 16, [8, 8]), (30, 100, [8, 8, 8]), (5, 100, [5])])
def test_whole_blocks_of_eight_are_drawn(count: int, asked: int, sizes: list[int]) -> None:
    blocks = fit.draw_blocks(workload(count, asked))
    assert [len(block) for block in blocks] == sizes
    turns = [turn for block in blocks for turn in block]
    assert len({name for name, _ in turns}) == len(turns), "one turn of a dialogue"
    sources = ["ab"[int(name[1:]) % 2] for name, _ in turns]
    assert sources == sorted(sources), "those of one source stand together"
    assert fit.draw_blocks(workload(count, asked)) == blocks


def test_a_share_is_a_posterior_of_the_replys_own_dialogue() -> None:
    even, sure, lost = fit.share_of_own([[-9.0] * 8, [0.0, *[-800.0] * 7], [-800.0, *[0.0] * 7]])
    assert (even, sure) == (0.125, 1.0)
    assert lost < 1e-300
    assert fit.share_of_own([[-1.0, -1.0 - np.log(3.0)]]) == pytest.approx([0.75])


class Judge:
    """Finds a text by so much likelier as it says the number of its prompt, less a hundred for each party's word."""

    def continuations(self, dialogue: Dialogue, texts: Sequence[str], longest: int) -> list[float]:
        number = dialogue.messages[0].content.split()[-1]
        assert longest == 5
        return [(10.0 if text.split()[-1] == number else 0.0) - 100.0 * text.count("own") for text in texts]


def test_every_party_is_scored_after_its_own_dialogue_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def here(_: ServingSpec, blocks: Sequence[Any], compute: Any) -> Iterator[Any]:
        return (compute(Judge(), block) for block in blocks)

    monkeypatch.setattr(fit, "in_processes", here)
    work, spec = workload(20, 16), ServingSpec(Artifact.__new__(Artifact), OperatingPoint())
    replies = [
        ScoredReply(d.id, turn, None, f" own {d.id[1:]}", 2, True, 12, d.messages[turn].content)
        for d in work.dialogues
        for turn in d.assistant_turns
    ]
    drawn = replace(replies[0], seed=1, text="never read")
    known = fit.fit_of_reference(spec, work, [drawn, *replies], lambda _: None)
    assert len(known) == 16
    assert all(f.people == (10.0, *[0.0] * 7) and f.reference == (-90.0, *[-100.0] * 7) for f in known)
    assert all(f.candidate == () for f in known)
    swapped = [replace(r, text="none") for r in replies]
    judged = fit.fit_of_candidate(spec, work, known, swapped, lambda _: None)
    assert all(f.candidate == (0.0,) * 8 and f.people == k.people for f, k in zip(judged, known, strict=True))
    with pytest.raises(ValueError, match="other turns"):
        fit.fit_of_candidate(spec, work, known[::-1], swapped, lambda _: None)
