"""Candidates of a search: who goes no further, by what, and what is kept of it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from halfwatt.compress.distil import Distil
from halfwatt.compress.ngram_draft import Draft
from halfwatt.compress.prune import Prune
from halfwatt.compress.quantize.quantize import Quantize
from halfwatt.compress.recipe import Recipe
from halfwatt.core.estimate import Estimate
from halfwatt.core.settings import Access
from halfwatt.dialogues.dialogue import DialogueSet
from halfwatt.dialogues.splits import SealedSplit
from halfwatt.evaluate import examine, requests
from halfwatt.evaluate.energy_protocol import Arm, Run
from halfwatt.evaluate.instruments import instruments
from halfwatt.models.chat_model import load
from halfwatt.runtimes.base import OperatingPoint, Speculation
from halfwatt.search import build, build_process, candidate
from halfwatt.search.build_process import BuildProcessDied
from halfwatt.search.candidate import CandidateResult, Evaluator, Incumbent, arm, evaluate_candidate
from halfwatt.search.job import Job
from halfwatt.search.stages import StageStore
from halfwatt.search.trial import Served, Trial, TrialReadings
from tests.support import taught_students as taught
from tests.support.hasty_optimize import HASTY

FINE, BROKEN = Recipe("int8", (Quantize(8),)), Recipe("cut", (Prune(drop=1), Quantize(8)))


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Evaluator]:
    folder = tmp_path_factory.mktemp("rungs")
    told = taught.dialogues()
    model = load(taught.folder(folder, "llama", told, taught.School(steps=60)))
    tune, train = (DialogueSet.of(some, split="tune", licence="") for some in (told[:10], told[10:30]))
    speech = requests.ChatFormat.by(model)
    seen = requests.make_workload(tune, speech)
    tools = instruments("cpu")
    job = Job(model, tune, SealedSplit(tune, folder / "seal"), folder, tools, train=train)
    exported = build.build(model, Recipe("B1"), seen.dialogues, folder / "artifacts", "cpu")
    b1 = Trial("B1", (), "done", None, exported, OperatingPoint(threads=1, threads_prefill=1), None, None)
    yield Evaluator(job, StageStore(folder / "stages", {}), b1, seen)
    tools.close()


@pytest.fixture
def arena(ground: Evaluator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Evaluator:
    """The same with a journal of its own and short windows."""
    for plan in ("SWEEP", "GLANCE", "DUEL"):
        monkeypatch.setattr(candidate, plan, HASTY)
    monkeypatch.setattr(build, "MIN_CAP", 24)
    return Evaluator(ground.job, StageStore(tmp_path / "stages", {}), ground.b1, ground.traffic)


def saves(monkeypatch: pytest.MonkeyPatch, mean: float) -> None:
    found = Estimate(mean, 0.95 * mean, 1.05 * mean, "x", 3)
    monkeypatch.setattr(candidate, "_saving", lambda *_: found)


def no_replies(*_: object) -> None:
    raise AssertionError("replies were asked for")


def test_what_cannot_beat_the_best_so_far_is_measured_briefly_and_no_more(
    arena: Evaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    saves(monkeypatch, 1.4)
    monkeypatch.setattr(build, "examine", no_replies)
    monkeypatch.setattr(build, "teacher_forced", no_replies)
    found = evaluate_candidate(arena, FINE, Incumbent(Estimate(8.0, 7.8, 8.2, "x", 12)))
    assert found.trial.status == "rejected"
    assert found.trial.reason == "saves 1.4 [1.33, 1.47] x where the best so far saves 8 [7.8, 8.2] x"
    assert found.found.cost == pytest.approx(-math.log(1.4)), "the search still learns what it costs"
    assert found.found.violation > 0, "it was never proven"
    assert found.readings.windows, "and what it was rejected by is kept"
    assert found.trial.quality is None


def test_a_likelihood_that_fails_the_gate_is_not_asked_for_replies(
    arena: Evaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    saves(monkeypatch, 9.0)
    monkeypatch.setattr(build, "examine", no_replies)
    found = evaluate_candidate(arena, BROKEN, Incumbent())
    assert found.trial.status == "rejected"
    assert "G1 likelihood is" in (found.trial.reason or "")
    assert found.found.violation > 0.02
    again = evaluate_candidate(Evaluator(arena.job, arena.journal, arena.b1, arena.traffic), BROKEN, Incumbent())
    assert again == found, "written down when it was finished"


def test_what_would_save_too_little_is_not_taught(arena: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    saves(monkeypatch, 1.4)

    def no_lessons(*_: object) -> None:
        raise AssertionError("it was taught")

    monkeypatch.setattr(Distil, "apply", no_lessons)
    student = Recipe("student", (Prune(drop=1), Distil(epochs=1), Quantize(8)))
    found = evaluate_candidate(arena, student, Incumbent(Estimate(8.0, 7.8, 8.2, "x", 12)))
    assert found.trial.status == "rejected"
    assert found.found.cost == pytest.approx(-math.log(1.4))
    with pytest.raises(AssertionError, match="it was taught"):
        evaluate_candidate(arena, Recipe("another", student.steps), Incumbent(Estimate(1.2, 1.1, 1.3, "x", 12)))


def test_what_would_save_too_little_is_not_rounded_with_care(arena: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    """But a draft may yet save a reply half of what its sketch takes."""
    saves(monkeypatch, 1.4)
    careful = Recipe("careful", (Quantize(4, method="gptq"), Draft()))
    found = evaluate_candidate(arena, careful, Incumbent(Estimate(8.0, 7.8, 8.2, "x", 12)))
    assert found.trial.status == "rejected"
    assert found.trial.artifact is not None
    assert found.trial.artifact.draft is None, "it was not made"
    whole: list[Trial] = []

    def screened(arena: Evaluator, made: Trial, bar: Incumbent) -> tuple[None, tuple[()]]:
        whole.append(made)
        return None, ()

    monkeypatch.setattr(candidate, "_screened", screened)
    monkeypatch.setattr(candidate, "_served_and_judged", lambda *_: found)
    evaluate_candidate(arena, replace(careful, name="hopeful"), Incumbent(Estimate(2.5, 2.4, 2.6, "x", 12)))
    assert [made.artifact and made.artifact.draft is not None for made in whole] == [True]


@pytest.mark.parametrize(("guesses", "status"), [(None, "rejected"), (Speculation("table", 3, 0.5), "done")])
def test_a_draft_that_is_not_used_is_not_judged(
    arena: Evaluator, monkeypatch: pytest.MonkeyPatch, guesses: Speculation | None, status: str
) -> None:
    def tuned(job: Job, journal: StageStore, name: str, trial: Trial, *_: object, coarser: bool) -> Trial:
        return replace(trial, at=replace(trial.at, speculation=guesses))

    monkeypatch.setattr(candidate, "tuned", tuned)
    monkeypatch.setattr(
        candidate, "_judged", lambda _, candidate, __: CandidateResult(candidate, TrialReadings("judged", (), None))
    )
    drafting = Recipe("drafting", (Quantize(8), Draft()))
    found = evaluate_candidate(arena, drafting, Incumbent())
    assert found.trial.status == status
    assert found.found.cost is None
    listed = evaluate_candidate(arena, replace(drafting, name="listed"), None)
    assert listed.readings.trial == "judged", "who names a recipe gets it judged"


def test_a_candidate_whose_maker_dies_ends_alone(arena: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise BuildProcessDied("the process that made it ended with code -9")

    monkeypatch.setattr(build_process, "made", killed)
    named = Evaluator(replace(arena.job, named=("model", Access())), arena.journal, arena.b1, arena.traffic)
    found = evaluate_candidate(named, FINE, Incumbent())
    assert found.trial.status == "failed"
    assert found.trial.reason == "the process that made it ended with code -9"
    assert found.found.cost is None, "disqualified"


def test_what_may_win_is_measured_and_judged_in_full(arena: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    saves(monkeypatch, 9.0)
    asked = 0

    def counted(*given: object) -> object:
        nonlocal asked
        asked += 1
        return plain(*given)  # type: ignore[arg-type]

    plain = examine.teacher_forced
    monkeypatch.setattr(build, "teacher_forced", counted)
    found = evaluate_candidate(arena, FINE, Incumbent(Estimate(8.0, 7.8, 8.2, "x", 12)))
    assert found.trial.status == "done"
    assert found.trial.quality is not None
    assert found.trial.energy is not None
    assert asked == 1, "its likelihoods are read once"
    assert found.trial.at == found.trial.tried[0].at
    assert [way.share for way in found.trial.tried] == sorted(way.share for way in found.trial.tried)


def test_on_the_ladder_nothing_is_rejected(arena: Evaluator) -> None:
    found = evaluate_candidate(arena, BROKEN)
    assert found.trial.status == "done"
    assert found.trial.quality is not None
    assert found.trial.quality.verdict == "FAIL"
    assert found.over > 0


def test_a_coarser_cache_is_kept_only_where_the_gate_passes_it(
    arena: Evaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the cheapest ways one has a cache of 8 bits: where its replies fail, the plain one is judged instead."""
    plain = OperatingPoint(threads=1, threads_prefill=1)
    coarse = replace(plain, kv_bits=8)
    asked: list[OperatingPoint] = []

    def tuned(_job: object, _journal: object, _name: str, trial: Trial, *_: object, coarser: bool) -> Trial:
        assert coarser
        return replace(trial, at=coarse, tried=(Served(coarse, 0.8), Served(plain, 1.0)))

    def judged(_arena: object, candidate: Trial, _scores: object) -> CandidateResult:
        asked.append(candidate.at)
        over = 0.1 if candidate.at.kv_bits == worst else -0.1
        return CandidateResult(candidate, TrialReadings(candidate.name, (), None), None, over)

    monkeypatch.setattr(candidate, "tuned", tuned)
    monkeypatch.setattr(candidate, "_judged", judged)
    worst = 8
    assert evaluate_candidate(arena, FINE).trial.at == plain
    assert asked == [coarse, plain]
    worst = 4
    assert evaluate_candidate(arena, Recipe("int8 again", FINE.steps)).trial.at == coarse


def test_a_coarser_cache_must_save_more_than_noise(arena: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    shares = {16: 1.0, 8: 0.99, 4: 1.2}

    def shared(arms: list[Arm], *_: object) -> Run:
        measured.append([arm.spec.at for arm in arms])
        return Run((), None, (), ())

    def per_arm(points: list[OperatingPoint]) -> list[float]:
        return [shares[point.kv_bits] for point in points]

    measured: list[list[OperatingPoint]] = []
    monkeypatch.setattr(candidate, "measure", shared)
    spec = arm(arena.job, arena.b1).spec
    assert not candidate._opens(replace(spec, at=replace(spec.at, kv_bits=8))), "heads of 16"
    monkeypatch.setattr(candidate, "_opens", lambda _: True)
    monkeypatch.setattr(candidate, "_costs", lambda _run, arms: per_arm([arm.spec.at for arm in arms]))
    found = candidate.tuned(arena.job, arena.journal, "noisy", arena.b1, arena.traffic, coarser=True)
    assert found.at.kv_bits == 16
    assert {at.kv_bits for some in measured for at in some} == {16, 8, 4}
    shares[8] = 0.9
    assert candidate.tuned(arena.job, arena.journal, "clear", arena.b1, arena.traffic, coarser=True).at.kv_bits == 8
    assert candidate.tuned(arena.job, arena.journal, "B1", arena.b1, arena.traffic).at.kv_bits == 16, (
        "B1 is the reference"
    )
