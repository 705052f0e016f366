"""A candidate on its way through the stages: who goes no further, by what, and what is kept of it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from halfwatt.compress.base import Step
from halfwatt.compress.distil import Distil
from halfwatt.compress.ngram_draft import Draft
from halfwatt.compress.prune import Prune
from halfwatt.compress.quantize.quantize import Quantize
from halfwatt.compress.recipe import Recipe
from halfwatt.core.estimate import Estimate
from halfwatt.core.settings import RunSettings
from halfwatt.runtimes.base import OperatingPoint, Speculation
from halfwatt.search.candidate import CandidateResult, Rivals, try_candidate
from halfwatt.search.judgement import Judgement, JudgeOrder, judge
from halfwatt.search.lab import Lab
from halfwatt.search.stages import BuildOutcome, MeasureOrder, TuneOrder, Tuning
from halfwatt.search.trial import Served
from tests.search.conftest import PLAIN, Ground, as_it_is
from tests.support.hasty_optimize import SETTINGS
from tests.support.scripted_lab import Script, ScriptedStore, equal_likelihoods, saves

INT8, BROKEN = Recipe("int8", (Quantize(8),)), Recipe("cut", (Prune(drop=1), Quantize(8)))
STAGES = ["build", "screen", "tune", "measure", "judge"]


def rivals(ground: Ground, saving: float | None = None) -> Rivals:
    """In a search; ``saving``: of the best so far."""
    return Rivals(ground.b1, True, None if saving is None else about(saving))


def about(mean: float) -> Estimate:
    return Estimate(mean, 0.98 * mean, 1.02 * mean, "x", 12)


def never(order: object) -> None:
    raise AssertionError(f"it was asked for: {order}")


def test_what_cannot_beat_the_best_so_far_is_measured_briefly_and_no_more(ground: Ground, tmp_path: Path) -> None:
    lab = ground.lab(tmp_path, {"measure": saves(1.4), "likelihood": never, "tune": never, "judge": never})
    result = try_candidate(lab, INT8, rivals(ground, 3.0))
    assert result.trial.status == "rejected"
    assert (result.trial.reason or "").startswith("saves 1.4 [")
    assert (result.trial.reason or "").endswith("where the best so far saves 3 [2.94, 3.06] x")
    assert result.outcome.cost == pytest.approx(-math.log(1.4), rel=0.01), "the search still learns what it costs"
    assert result.outcome.violation > 0, "it was never proven"
    assert result.readings.windows, "and what it was rejected by is kept"
    assert result.trial.quality is None


def test_what_reads_too_many_bytes_to_win_is_not_measured_at_all(ground: Ground, tmp_path: Path) -> None:
    """Unless something taught it shorter replies."""
    result = try_candidate(ground.lab(tmp_path, {"measure": never}), INT8, rivals(ground, 8.0))
    assert result.trial.status == "rejected"
    assert (result.trial.reason or "").startswith("reads 1.")
    assert result.outcome.cost is None, "nothing was measured"
    assert result.outcome.violation > 0
    taught = Recipe("taught", (Distil(epochs=1), Quantize(8)))
    script: Script = {"measure": never, "build": lambda _: BuildOutcome(ground.b1.artifact)}
    with pytest.raises(AssertionError, match="it was asked for"):
        try_candidate(ground.lab(tmp_path / "b", script), taught, rivals(ground, 8.0))


def test_a_likelihood_that_fails_the_gate_is_not_asked_for_replies(ground: Ground, tmp_path: Path) -> None:
    lab = ground.lab(tmp_path, {"measure": saves(9.0), "tune": never, "judge": never, "reference_replies": never})
    result = try_candidate(lab, BROKEN, rivals(ground))
    assert result.trial.status == "rejected"
    assert "G1 likelihood is" in (result.trial.reason or "")
    assert result.outcome.violation > 0.02
    again = try_candidate(ground.lab(tmp_path, dict.fromkeys(STAGES, never)), BROKEN, rivals(ground))
    assert again == result, "written down when it was finished"


def test_what_does_not_say_what_its_original_says_is_no_matter_of_likelihood(ground: Ground, tmp_path: Path) -> None:
    parity = ground.b1.artifact.parity
    assert parity is not None
    other = replace(ground.b1.artifact, parity=replace(parity, template_equal=False, problems=("another template",)))
    script: Script = {"build": lambda _: BuildOutcome(other), "measure": saves(9.0), "likelihood": never, "tune": never}
    result = try_candidate(ground.lab(tmp_path, script), INT8, rivals(ground))
    assert (result.trial.status, result.trial.reason) == ("rejected", "G0: another template")
    assert result.outcome.violation > 0


def test_candidates_whose_names_differ_in_signs_alone_are_two(ground: Ground, tmp_path: Path) -> None:
    """Such as students from folders v1.5 and v1-5."""
    script: Script = {"build": lambda order: BuildOutcome(None, f"{order.name} failed")}
    lab = ground.lab(tmp_path, script)
    names = "v1.5, int8", "v1-5, int8", "学生, int8", "老师, int8"
    results = [try_candidate(lab, replace(INT8, name=name), rivals(ground)) for name in names]
    assert [result.trial.reason for result in results] == [f"{name} failed" for name in names]


def test_what_would_save_too_little_is_not_taught(ground: Ground, tmp_path: Path) -> None:
    student = Recipe("student", (Prune(drop=1), Distil(epochs=1), Quantize(8)))
    recipes: list[str] = []

    def built(order: object) -> BuildOutcome:
        recipes.append(order.recipe)  # type: ignore[attr-defined]
        return BuildOutcome(ground.b1.artifact)

    script: Script = {"measure": saves(1.4), "build": built, "likelihood": equal_likelihoods, "tune": never}
    result = try_candidate(ground.lab(tmp_path, script), student, rivals(ground, 8.0))
    assert result.trial.status == "rejected"
    assert result.outcome.cost == pytest.approx(-math.log(1.4), rel=0.01)
    assert ["distil" in toml for toml in recipes] == [False]
    with pytest.raises(AssertionError, match="it was asked for"):  # it goes on to be tuned
        try_candidate(ground.lab(tmp_path / "b", script), replace(student, name="another"), rivals(ground, 1.2))
    assert ["distil" in toml for toml in recipes] == [False, False, True]


def test_what_would_save_too_little_is_not_rounded_with_care(ground: Ground, tmp_path: Path) -> None:
    """But a draft may yet save a reply half of what its sketch takes."""
    careful = Recipe("careful", (Quantize(4, method="gptq"), Draft()))
    lab = ground.lab(tmp_path, {"measure": saves(1.4), "likelihood": never, "tune": never})
    result = try_candidate(lab, careful, rivals(ground, 8.0))
    assert result.trial.status == "rejected"
    assert result.trial.artifact is not None
    assert result.trial.artifact.draft is None, "it was not built"
    script: Script = {"measure": saves(1.4), "likelihood": equal_likelihoods, "tune": never}
    with pytest.raises(AssertionError, match="draft='"):  # built whole, it goes on to be tuned
        try_candidate(ground.lab(tmp_path / "b", script), replace(careful, name="hopeful"), rivals(ground, 2.5))


@pytest.mark.parametrize(("guesses", "status"), [(None, "rejected"), (Speculation("table", 3, 0.5), "done")])
def test_a_draft_that_is_not_used_is_not_judged(
    ground: Ground, tmp_path: Path, guesses: Speculation | None, status: str
) -> None:
    at = replace(PLAIN, speculation=guesses)
    script: Script = {"measure": saves(9.0), "tune": lambda _: Tuning((Served(at, 1.0),))}
    drafting = Recipe("drafting", (Quantize(8), Draft()))
    result = try_candidate(ground.lab(tmp_path, script), drafting, rivals(ground))
    assert result.trial.status == status
    assert (result.outcome.cost is None) == (status == "rejected")
    listed = try_candidate(ground.lab(tmp_path / "b", script), drafting, Rivals(ground.b1))
    assert listed.trial.quality is not None, "who names a recipe gets it judged"


def test_a_candidate_that_cannot_be_built_ends_alone(ground: Ground, tmp_path: Path) -> None:
    fault = "the process that built it ended with code -9"
    lab = ground.lab(tmp_path, {"build": lambda _: BuildOutcome(None, fault), "measure": never})
    result = try_candidate(lab, INT8, rivals(ground))
    assert (result.trial.status, result.trial.reason) == ("failed", fault)
    assert result.outcome.cost is None, "disqualified"
    lab = Lab.of(replace(ground.job, train=None), ScriptedStore(tmp_path / "c"), ground.job.tune, "tune")
    result = try_candidate(lab, BROKEN, Rivals(ground.b1))
    assert result.trial.status == "failed"
    assert "pruning needs dialogues" in (result.trial.reason or "")


def test_what_may_win_is_measured_and_judged_in_full(ground: Ground, tmp_path: Path) -> None:
    lab = ground.lab(tmp_path, {"measure": saves(4.0)})
    result = try_candidate(lab, INT8, rivals(ground, 3.0))
    assert result.trial.status == "done"
    assert result.trial.quality is not None
    assert result.trial.energy is not None
    store = lab.store
    assert isinstance(store, ScriptedStore)
    assert store.computed.count("likelihood") == 1, "its likelihoods are read once"
    assert [stage for stage in dict.fromkeys(store.computed) if stage in STAGES] != []
    assert result.trial.at == result.trial.tried[0].at
    assert [way.share for way in result.trial.tried] == sorted(way.share for way in result.trial.tried)


def test_on_the_list_nothing_is_rejected(ground: Ground, tmp_path: Path) -> None:
    result = try_candidate(ground.lab(tmp_path, {"measure": saves(0.5)}), BROKEN, Rivals(ground.b1))
    assert result.trial.status == "done"
    assert result.trial.quality is not None
    assert result.trial.quality.verdict == "FAIL"
    assert result.over > 0


@pytest.mark.parametrize("stage", STAGES)
def test_interrupted_in_any_stage_it_goes_on_there(ground: Ground, tmp_path: Path, stage: str) -> None:
    """Nothing that was finished is computed again, and the verdict is that of a run that nobody interrupted."""

    def run(folder: Path, interrupt: tuple[str, int] | None = None) -> tuple[CandidateResult, list[str]]:
        lab = ground.lab(folder, {"measure": saves(9.0), "tune": as_it_is}, interrupt)
        assert isinstance(lab.store, ScriptedStore)
        return try_candidate(lab, INT8, rivals(ground, 1.2)), lab.store.computed

    whole, every = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", (stage, 2 if stage == "measure" else 1))  # the first is the screen's
    rest, after = run(tmp_path / "cut")
    assert after[-1] == "judge"
    assert stage in after
    assert not set(STAGES[: STAGES.index(stage)]) & set(after), "what came before is on disk"
    assert len(after) <= len(every)
    assert (rest.trial.status, rest.trial.quality, rest.over) == (whole.trial.status, whole.trial.quality, whole.over)
    assert rest == whole


def test_a_coarser_cache_is_kept_only_where_the_gate_passes_it(ground: Ground, tmp_path: Path) -> None:
    """Of the cheapest ways one has a cache of 8 bits: where its replies fail, the plain one is judged instead."""
    coarse = replace(PLAIN, kv_bits=8)
    judged: list[OperatingPoint] = []

    def tuning(order: TuneOrder) -> Tuning:
        assert order.coarser
        return Tuning((Served(coarse, 0.8), Served(PLAIN, 1.0)))

    def verdict(order: JudgeOrder) -> Judgement:
        judged.append(order.candidate.at)
        fails = order.candidate.at.kv_bits == failing
        report = replace(judgement.report, verdict="FAIL" if fails else "PASS")
        return replace(judgement, report=report)

    plain = ground.lab(tmp_path, {"measure": saves(1.5)})
    judgement = plain.run(judge, JudgeOrder(ground.b1, ground.b1, ground.job.settings.margins))
    script: Script = {"measure": saves(1.5), "tune": tuning, "judge": verdict}
    failing = 8
    assert try_candidate(ground.lab(tmp_path / "a", script), INT8, Rivals(ground.b1)).trial.at == PLAIN
    assert judged == [coarse, PLAIN]
    failing = 4
    assert try_candidate(ground.lab(tmp_path / "b", script), INT8, Rivals(ground.b1)).trial.at == coarse


def test_settings_reach_every_stage(ground: Ground, tmp_path: Path) -> None:
    """The plans of the protocol are those that stages are ordered with."""
    plans: list[object] = []

    def noted(order: MeasureOrder) -> object:
        plans.append(order.plan)
        return saves(9.0)(order)

    protocol = replace(SETTINGS.protocol, paired=replace(SETTINGS.protocol.paired, window_s=0.5))
    settings: RunSettings = replace(SETTINGS, protocol=protocol)
    lab = replace(
        ground.lab(tmp_path, {"measure": noted, "tune": as_it_is}), job=replace(ground.job, settings=settings)
    )
    try_candidate(lab, INT8, rivals(ground, 1.2))
    assert plans == [protocol.screen, protocol.paired]
    plans.clear()
    try_candidate(lab, Recipe("the first", INT8.steps), rivals(ground))
    assert plans == [protocol.paired], "while there is nothing to beat, nothing is looked at first"


def steps_of(result: CandidateResult) -> tuple[str, ...]:
    return result.trial.recipe


def test_a_trial_says_what_it_was_made_by(ground: Ground, tmp_path: Path) -> None:
    steps: tuple[Step, ...] = (Quantize(8),)
    lab = ground.lab(tmp_path, {"build": lambda _: BuildOutcome(None, "no")})
    assert steps_of(try_candidate(lab, Recipe("x", steps), Rivals(ground.b1))) == tuple(map(repr, steps))
