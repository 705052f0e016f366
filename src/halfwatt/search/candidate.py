"""One candidate on its way through the five stages, on the tune split, against B1.

    on the list      build - tune - measure - judge
    in a search      (sketch: build - screen) - build - screen - tune - measure - judge
                     what cannot beat the best so far, or fails the gate's G1 or G2, is given up by a screen; a sketch
                     is neither taught nor rounded with care, which changes little of what a reply takes

A likelihood that fails the gate fails it whatever the replies say, so nothing is lost by not asking for them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from halfwatt.compress.base import Stage
from halfwatt.compress.recipe import Recipe, cheap_proxy, to_toml
from halfwatt.core.estimate import Estimate
from halfwatt.evaluate import energy_analysis
from halfwatt.formats.artifact import Artifact
from halfwatt.runtimes.base import OperatingPoint
from halfwatt.search.lab import Contender, Lab
from halfwatt.search.operating_points import PLAIN_KV_BITS
from halfwatt.search.stages import (
    NOT_PASSED,
    BuildOrder,
    BuildOutcome,
    Incumbent,
    JudgeOrder,
    MeasureOrder,
    Screening,
    ScreenOrder,
    TuneOrder,
    build,
    judge,
    measure,
    nats_over_margin,
    saving_of,
    screen,
    tune,
)
from halfwatt.search.trial import Trial, TrialReadings
from halfwatt.search.trial_store import TrialOutcome

_DRAFT_HOPE = 2.0  # times less that a reply may take with a table of drafts: two tokens in a pass, about


@dataclass(frozen=True, slots=True)
class CandidateResult:
    """A candidate with the readings that it was chosen by.

    saving:  B1's cost over its own, as operating points are chosen; None = it was not measured
    over:    nats a token by which it misses the likelihood's margin; 0 or less = the gate passed it
    """

    trial: Trial
    readings: TrialReadings
    saving: Estimate | None = None
    over: float = 0.0

    @property
    def outcome(self) -> TrialOutcome:
        """What a search makes of it: the log of the share of B1 that it takes."""
        return TrialOutcome(None if self.saving is None else -math.log(self.saving.mean), self.over)

    @property
    def passed(self) -> bool:
        """Was it measured, and did the gate pass it?"""
        return self.saving is not None and self.over <= 0


@dataclass(frozen=True, slots=True)
class Rivals:
    """Whom a candidate meets: B1, and in a search the best so far; None = it is measured whatever it comes to."""

    reference: Contender
    incumbent: Incumbent | None = None

    def of(self, recipe: Recipe) -> Rivals:
        """For this recipe: a draft may yet save more than a first look shows."""
        if self.incumbent is None or all(step.stage != Stage.DECODING for step in recipe.steps):
            return self
        return replace(self, incumbent=replace(self.incumbent, hope=_DRAFT_HOPE))


def try_candidate(lab: Lab, recipe: Recipe, rivals: Rivals) -> CandidateResult:
    """What a recipe comes to, or why there is no candidate. A fault of the recipe ends the candidate, not the run."""
    kind, name = CandidateResult, f"candidate-{recipe.slug}"
    return lab.store.once(name, kind, lambda: _pass_stages(lab, recipe, rivals.of(recipe)))


def _pass_stages(lab: Lab, recipe: Recipe, rivals: Rivals) -> CandidateResult:
    sketch = Recipe("sketch", cheap_proxy(recipe.steps))
    if rivals.incumbent is not None and rivals.incumbent.saving is not None and sketch.steps != recipe.steps:
        built, screening = _build_and_screen(lab, recipe, sketch, rivals)
        if screening.reason is not None:
            return _ended(recipe, built, screening, rivals)
    built, screening = _build_and_screen(lab, recipe, recipe, rivals)
    if screening.reason is not None or built.artifact is None:
        return _ended(recipe, built, screening, rivals)
    contender = Contender(recipe.name, built.artifact, rivals.reference.at)
    settings = lab.job.settings
    tuning = lab.run(tune, TuneOrder(contender, settings.protocol.tune, settings.search.users, coarser=True))
    trial = replace(_blank(recipe), status="done", artifact=built.artifact, tried=tuning.ways)
    if rivals.incumbent is not None and _leaves_draft_alone(built.artifact, tuning.best):
        reason = "its draft is not used: without it a reply takes less, so it is the recipe without a draft"
        lab.say(f"{recipe.name}: {reason}")
        ended = replace(trial, status="rejected", reason=reason, at=tuning.best)
        return CandidateResult(ended, TrialReadings(recipe.name, (), None))
    result = _measure_and_judge(lab, replace(trial, at=tuning.best), rivals)
    if result.over > 0 and tuning.best.kv_bits < PLAIN_KV_BITS:  # a coarser cache that fails gives way to the plain one
        return _measure_and_judge(lab, replace(trial, at=tuning.plain), rivals)
    return result


def order_of(lab: Lab, recipe: Recipe) -> BuildOrder:
    """What has to be built for a recipe."""
    toml = to_toml(recipe) if recipe.steps else ""
    return BuildOrder(recipe.name, toml, lab.job.model.sha256, lab.job.step_context().fingerprint)


def _build_and_screen(lab: Lab, recipe: Recipe, form: Recipe, rivals: Rivals) -> tuple[BuildOutcome, Screening]:
    """At the reference's operating point. form: the recipe itself, or its sketch, whose likelihood says nothing."""
    built = lab.run(build, order_of(lab, form))
    if built.artifact is None:
        return built, Screening(reason=built.fault)
    settings, contender = lab.job.settings, Contender(recipe.name, built.artifact, rivals.reference.at)
    plan, margins = settings.protocol.screen, settings.margins
    return built, lab.run(
        screen, ScreenOrder(rivals.reference, contender, plan, margins, rivals.incumbent, form is recipe)
    )


def _blank(recipe: Recipe) -> Trial:
    steps = tuple(repr(step) for step in recipe.steps)
    return Trial(recipe.name, steps, "failed", None, None, OperatingPoint(), None, None)


def _ended(recipe: Recipe, built: BuildOutcome, screening: Screening, rivals: Rivals) -> CandidateResult:
    """One that could not be built, or that a screen gave up."""
    trial = replace(_blank(recipe), reason=screening.reason)
    if built.artifact is not None:
        trial = replace(trial, status="rejected", artifact=built.artifact, at=rivals.reference.at)
    readings = TrialReadings(recipe.name, screening.windows, None)
    return CandidateResult(trial, readings, screening.saving, screening.over)


def _leaves_draft_alone(artifact: Artifact, at: OperatingPoint) -> bool:
    """Does it carry a draft that its operating point leaves alone?"""
    return artifact.draft is not None and (at.speculation is None or at.speculation.kind != "table")


def _measure_and_judge(lab: Lab, trial: Trial, rivals: Rivals) -> CandidateResult:
    """Energy and quality of the same artifact at the same operating point, both against B1."""
    assert trial.artifact is not None, "it was built"
    settings, reference = lab.job.settings, rivals.reference
    contender = Contender(trial.name, trial.artifact, trial.at)
    lab.say(f"{trial.name}: measuring against {reference.name}")
    run = lab.run(measure, MeasureOrder((reference, contender), settings.protocol.paired))
    screened = rivals.incumbent is not None
    judgement = lab.run(judge, JudgeOrder(reference, contender, settings.margins, screened))
    report, windows = judgement.report, run.windows
    judged = replace(
        trial,
        energy=energy_analysis.measurement(trial.name, windows, run.meter),
        quality=report,
        cpu_s_ratio_vs_B1=energy_analysis.ratio(reference.name, trial.name, windows, energy_analysis.cpu_s_per_reply),
        energy_ratio_vs_B1=energy_analysis.energy_ratio(reference.name, trial.name, run.windows, run.meter),
    )
    over = nats_over_margin(report.checks, settings.margins)
    over = min(over, 0.0) if report.verdict == "PASS" else max(over, NOT_PASSED)
    readings = TrialReadings(trial.name, windows, judgement.inputs)
    return CandidateResult(judged, readings, saving_of(reference.name, trial.name, run), over)
