"""Candidates of a search: who goes no further, by what, and what is kept of it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from halfwatt import pipeline, rungs
from halfwatt.chat_model import load
from halfwatt.dialogue import DialogueSet, SealedSplit
from halfwatt.estimate import Estimate
from halfwatt.journal import Journal
from halfwatt.recipe import Recipe
from halfwatt.records import OperatingPoint, Trial
from halfwatt.rungs import Arena, Bar, Job, climbed
from halfwatt.steps.prune import Prune
from halfwatt.steps.quantize import Quantize
from halfwatt.workload import instruments
from tests import taught
from tests.hasty import HASTY

FINE, BROKEN = Recipe("int8", (Quantize(8),)), Recipe("cut", (Prune(drop=1), Quantize(8)))


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    folder = tmp_path_factory.mktemp("rungs")
    told = taught.dialogues()
    model = load(taught.folder(folder, "llama", told, taught.School(steps=60)))
    tune, train = (DialogueSet.of(some, split="tune", licence="") for some in (told[:10], told[10:30]))
    speech = pipeline.Speech.by(model)
    seen = pipeline.traffic(tune, speech)
    tools = instruments("cpu")
    job = Job(model, tune, SealedSplit(tune, folder / "seal"), folder, tools, train=train)
    exported = pipeline.build(model, Recipe("B1"), seen.dialogues, folder / "artifacts", "cpu")
    b1 = Trial("B1", (), "done", None, exported, OperatingPoint(threads=1, threads_prefill=1), None, None)
    yield Arena(job, Journal(folder / "stages", {}), b1, seen)
    tools.close()


@pytest.fixture
def arena(ground: Arena, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Arena:
    """The same with a journal of its own and short windows."""
    for plan in ("SWEEP", "GLANCE", "DUEL"):
        monkeypatch.setattr(rungs, plan, HASTY)
    monkeypatch.setattr(pipeline, "MIN_CAP", 24)
    return Arena(ground.job, Journal(tmp_path / "stages", {}), ground.b1, ground.traffic)


def saves(monkeypatch: pytest.MonkeyPatch, mean: float) -> None:
    found = Estimate(mean, 0.95 * mean, 1.05 * mean, "x", 3)
    monkeypatch.setattr(rungs, "_saving", lambda *_: found)


def no_replies(*_: object) -> None:
    raise AssertionError("replies were asked for")


def test_what_cannot_beat_the_best_so_far_is_measured_briefly_and_no_more(
    arena: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    saves(monkeypatch, 1.4)
    monkeypatch.setattr(pipeline, "examine", no_replies)
    monkeypatch.setattr(pipeline, "teacher_forced", no_replies)
    found = climbed(arena, FINE, Bar(Estimate(8.0, 7.8, 8.2, "x", 12)))
    assert found.trial.status == "rejected"
    assert found.trial.reason == "saves 1.4 [1.33, 1.47] x where the best so far saves 8 [7.8, 8.2] x"
    assert found.found.cost == pytest.approx(-math.log(1.4)), "the search still learns what it costs"
    assert found.found.violation > 0, "it was never proven"
    assert found.readings.windows, "and what it was rejected by is kept"
    assert found.trial.quality is None


def test_a_likelihood_that_fails_the_gate_is_not_asked_for_replies(
    arena: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    saves(monkeypatch, 9.0)
    monkeypatch.setattr(pipeline, "examine", no_replies)
    found = climbed(arena, BROKEN, Bar())
    assert found.trial.status == "rejected"
    assert "G1 likelihood is" in (found.trial.reason or "")
    assert found.found.violation > 0.02
    again = climbed(Arena(arena.job, arena.journal, arena.b1, arena.traffic), BROKEN, Bar())
    assert again == found, "written down when it was finished"


def test_what_may_win_is_measured_and_judged_in_full(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    saves(monkeypatch, 9.0)
    asked = 0

    def counted(*given: object) -> object:
        nonlocal asked
        asked += 1
        return plain(*given)  # type: ignore[arg-type]

    plain = pipeline.teacher_forced
    monkeypatch.setattr(pipeline, "teacher_forced", counted)
    found = climbed(arena, FINE, Bar(Estimate(8.0, 7.8, 8.2, "x", 12)))
    assert found.trial.status == "done"
    assert found.trial.quality is not None
    assert found.trial.energy is not None
    assert asked == 1, "its likelihoods are read once"
    assert found.trial.at == found.trial.tried[0].at
    assert [way.share for way in found.trial.tried] == sorted(way.share for way in found.trial.tried)


def test_on_the_ladder_nothing_is_rejected(arena: Arena) -> None:
    found = climbed(arena, BROKEN)
    assert found.trial.status == "done"
    assert found.trial.quality is not None
    assert found.trial.quality.verdict == "FAIL"
    assert found.over > 0
