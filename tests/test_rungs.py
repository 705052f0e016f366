"""Candidates of a search: who goes no further, by what, and what is kept of it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from halfwatt import maker, pipeline, rungs
from halfwatt.artifacts import Access
from halfwatt.chat_model import load
from halfwatt.dialogue import DialogueSet, SealedSplit
from halfwatt.estimate import Estimate
from halfwatt.journal import Journal
from halfwatt.maker import MakerDied
from halfwatt.recipe import Recipe
from halfwatt.records import OperatingPoint, Served, Speculation, Trial, TrialReadings
from halfwatt.rungs import Arena, Bar, Job, Rung, arm, climbed
from halfwatt.steps.distil import Distil
from halfwatt.steps.draft import Draft
from halfwatt.steps.prune import Prune
from halfwatt.steps.quantize import Quantize
from halfwatt.workload import Arm, Run, instruments
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


def test_what_would_save_too_little_is_not_taught(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    saves(monkeypatch, 1.4)

    def no_lessons(*_: object) -> None:
        raise AssertionError("it was taught")

    monkeypatch.setattr(Distil, "apply", no_lessons)
    student = Recipe("student", (Prune(drop=1), Distil(epochs=1), Quantize(8)))
    found = climbed(arena, student, Bar(Estimate(8.0, 7.8, 8.2, "x", 12)))
    assert found.trial.status == "rejected"
    assert found.found.cost == pytest.approx(-math.log(1.4))
    with pytest.raises(AssertionError, match="it was taught"):
        climbed(arena, Recipe("another", student.steps), Bar(Estimate(1.2, 1.1, 1.3, "x", 12)))


def test_what_would_save_too_little_is_not_rounded_with_care(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    """But a draft may yet save a reply half of what its sketch takes."""
    saves(monkeypatch, 1.4)
    careful = Recipe("careful", (Quantize(4, method="gptq"), Draft()))
    found = climbed(arena, careful, Bar(Estimate(8.0, 7.8, 8.2, "x", 12)))
    assert found.trial.status == "rejected"
    assert found.trial.artifact is not None
    assert found.trial.artifact.draft is None, "it was not made"
    whole: list[Trial] = []

    def screened(arena: Arena, made: Trial, bar: Bar) -> tuple[None, tuple[()]]:
        whole.append(made)
        return None, ()

    monkeypatch.setattr(rungs, "_screened", screened)
    monkeypatch.setattr(rungs, "_served_and_judged", lambda *_: found)
    climbed(arena, replace(careful, name="hopeful"), Bar(Estimate(2.5, 2.4, 2.6, "x", 12)))
    assert [made.artifact and made.artifact.draft is not None for made in whole] == [True]


@pytest.mark.parametrize(("guesses", "status"), [(None, "rejected"), (Speculation("table", 3, 0.5), "done")])
def test_a_draft_that_is_not_used_is_not_judged(
    arena: Arena, monkeypatch: pytest.MonkeyPatch, guesses: Speculation | None, status: str
) -> None:
    def tuned(job: Job, journal: Journal, name: str, trial: Trial, *_: object, coarser: bool) -> Trial:
        return replace(trial, at=replace(trial.at, speculation=guesses))

    monkeypatch.setattr(rungs, "tuned", tuned)
    monkeypatch.setattr(rungs, "_judged", lambda _, candidate, __: Rung(candidate, TrialReadings("judged", (), None)))
    drafting = Recipe("drafting", (Quantize(8), Draft()))
    found = climbed(arena, drafting, Bar())
    assert found.trial.status == status
    assert found.found.cost is None
    listed = climbed(arena, replace(drafting, name="listed"), None)
    assert listed.readings.trial == "judged", "who names a recipe gets it judged"


def test_a_candidate_whose_maker_dies_ends_alone(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise MakerDied("the process that made it ended with code -9")

    monkeypatch.setattr(maker, "made", killed)
    named = Arena(replace(arena.job, named=("model", Access())), arena.journal, arena.b1, arena.traffic)
    found = climbed(named, FINE, Bar())
    assert found.trial.status == "failed"
    assert found.trial.reason == "the process that made it ended with code -9"
    assert found.found.cost is None, "disqualified"


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


def test_a_coarser_cache_is_kept_only_where_the_gate_passes_it(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the cheapest ways one has a cache of 8 bits: where its replies fail, the plain one is judged instead."""
    plain = OperatingPoint(threads=1, threads_prefill=1)
    coarse = replace(plain, kv_bits=8)
    asked: list[OperatingPoint] = []

    def tuned(_job: object, _journal: object, _name: str, trial: Trial, *_: object, coarser: bool) -> Trial:
        assert coarser
        return replace(trial, at=coarse, tried=(Served(coarse, 0.8), Served(plain, 1.0)))

    def judged(_arena: object, candidate: Trial, _scores: object) -> Rung:
        asked.append(candidate.at)
        over = 0.1 if candidate.at.kv_bits == worst else -0.1
        return Rung(candidate, TrialReadings(candidate.name, (), None), None, over)

    monkeypatch.setattr(rungs, "tuned", tuned)
    monkeypatch.setattr(rungs, "_judged", judged)
    worst = 8
    assert climbed(arena, FINE).trial.at == plain
    assert asked == [coarse, plain]
    worst = 4
    assert climbed(arena, Recipe("int8 again", FINE.steps)).trial.at == coarse


def test_a_coarser_cache_must_save_more_than_noise(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    shares = {16: 1.0, 8: 0.99, 4: 1.2}

    def shared(arms: list[Arm], *_: object) -> Run:
        measured.append([arm.spec.at for arm in arms])
        return Run((), None, (), ())

    def per_arm(points: list[OperatingPoint]) -> list[float]:
        return [shares[point.kv_bits] for point in points]

    measured: list[list[OperatingPoint]] = []
    monkeypatch.setattr(rungs, "measure", shared)
    spec = arm(arena.job, arena.b1).spec
    assert not rungs._opens(replace(spec, at=replace(spec.at, kv_bits=8))), "heads of 16"
    monkeypatch.setattr(rungs, "_opens", lambda _: True)
    monkeypatch.setattr(rungs, "_costs", lambda _run, arms: per_arm([arm.spec.at for arm in arms]))
    found = rungs.tuned(arena.job, arena.journal, "noisy", arena.b1, arena.traffic, coarser=True)
    assert found.at.kv_bits == 16
    assert {at.kv_bits for some in measured for at in some} == {16, 8, 4}
    shares[8] = 0.9
    assert rungs.tuned(arena.job, arena.journal, "clear", arena.b1, arena.traffic, coarser=True).at.kv_bits == 8
    assert rungs.tuned(arena.job, arena.journal, "B1", arena.b1, arena.traffic).at.kv_bits == 16, "B1 is the reference"
