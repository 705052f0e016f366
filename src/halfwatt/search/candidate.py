"""One candidate on its way through the five stages, on the tune split, against B1.

    on the list      build - tune - measure - judge
    in a search      (sketch: build - screen) - build - screen - tune - measure - judge
                     what cannot beat the best so far, or fails the gate's G0 to G2, is given up by a screen; a sketch
                     is neither taught nor rounded with care, which changes little of what a reply takes

A likelihood that fails the gate fails it whatever the replies say, so nothing is lost by not asking for them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from halfwatt.compress.base import Stage
from halfwatt.compress.pretrained import Adopt
from halfwatt.compress.recipe import Recipe, cheap_proxy, to_toml
from halfwatt.core.estimate import Estimate
from halfwatt.evaluate import energy_analysis, gate
from halfwatt.runtimes.base import OperatingPoint
from halfwatt.search import stages
from halfwatt.search.judgement import JudgeOrder, judge
from halfwatt.search.lab import Contender, Lab
from halfwatt.search.operating_points import PLAIN_KV_BITS
from halfwatt.search.stage_store import hash_of
from halfwatt.search.stages import BuildOrder, MeasureOrder, ScreenOrder, TuneOrder
from halfwatt.search.trial import Trial, TrialReadings
from halfwatt.search.trial_store import TrialOutcome

_DRAFT_HOPE = 2.0  # times less that a reply may take with a table of drafts: two tokens in a pass, about


@dataclass(frozen=True, slots=True)
class CandidateResult:
    """A candidate with the readings that it was chosen by."""

    trial: Trial
    readings: TrialReadings
    saving: Estimate | None = None  # B1's cost over its own, as operating points are chosen; None = not measured
    over: float = 0.0  # by how many margins it misses what the gate asks; 0 or less = the gate passed it

    @property
    def outcome(self) -> TrialOutcome:
        """What a search makes of it: the log of the share of B1 that it takes."""
        return TrialOutcome(None if self.saving is None else -math.log(self.saving.mean), self.over)

    @property
    def original_is_likelier(self) -> bool:
        """Does the original find people's replies likelier?"""
        if self.trial.quality is None:
            return self.over > gate.NOT_PASSED
        check = gate.likelihood_check(self.trial.quality.checks)
        return check is not None and check.estimate is not None and check.estimate.mean > 0

    @property
    def passed(self) -> bool:
        """Was it measured, and did the gate pass it?"""
        return self.saving is not None and self.over <= 0


@dataclass(frozen=True, slots=True)
class Rivals:
    """Whom a candidate meets: B1, and in a search the best so far."""

    reference: Contender
    searching: bool = False  # else it is measured whatever it comes to
    best: Estimate | None = None  # saving of what passed so far; None = nothing has


def try_candidate(lab: Lab, recipe: Recipe, rivals: Rivals) -> CandidateResult:
    """What a recipe comes to, or why there is no candidate. A fault of the recipe ends the candidate, not the run."""
    return lab.store.once(stored_name(recipe), CandidateResult, lambda: _pass_stages(lab, recipe, rivals))


def stored_name(recipe: Recipe) -> str:
    """Of a whole candidate among the finished work."""
    return f"candidate-{recipe.slug}-{hash_of(recipe.name)}"  # several names may have one slug


def _pass_stages(lab: Lab, recipe: Recipe, rivals: Rivals) -> CandidateResult:
    sketch, settings = Recipe("sketch", cheap_proxy(recipe.steps)), lab.job.settings
    sketched = rivals.searching and rivals.best is not None and sketch.steps != recipe.steps
    hope = _DRAFT_HOPE if any(step.stage == Stage.DECODING for step in recipe.steps) else 1.0
    blank = Trial(recipe.name, tuple(map(repr, recipe.steps)), "failed", None, None, OperatingPoint(), None, None)
    for form in (sketch, recipe) if sketched else (recipe,):
        built = lab.run(stages.build, order_of(lab, form))
        if built.artifact is None:
            lab.say(f"{recipe.name}: {built.fault}")
            return CandidateResult(replace(blank, reason=built.fault), TrialReadings(recipe.name, (), None))
        contender = Contender(recipe.name, built.artifact, rivals.reference.at)
        trial = replace(blank, artifact=built.artifact, at=contender.at)
        if rivals.searching:
            how = (settings.protocol.screen, settings.margins, rivals.best, hope)
            untaught = not any(step.trains or isinstance(step, Adopt) for step in recipe.steps)
            order = ScreenOrder(rivals.reference, contender, *how, likelihood=form is recipe, as_long=untaught)
            screening = lab.run(stages.screen, order)
            if screening.reason is not None:
                rejected = replace(trial, status="rejected", reason=screening.reason)
                readings = TrialReadings(recipe.name, screening.windows, None)
                return CandidateResult(rejected, readings, screening.saving, screening.over)
    tuning = lab.run(stages.tune, TuneOrder(contender, settings.protocol.tune, settings.search.users, coarser=True))
    trial, guess = replace(trial, status="done", at=tuning.best, tried=tuning.ways), tuning.best.speculation
    if rivals.searching and contender.artifact.draft is not None and (guess is None or guess.kind != "table"):
        reason = "its draft is not used: without it a reply takes less, so it is the recipe without a draft"
        lab.say(f"{recipe.name}: {reason}")
        rejected = replace(trial, status="rejected", reason=reason)
        return CandidateResult(rejected, TrialReadings(recipe.name, (), None))
    result = _measure_and_judge(lab, trial, rivals)
    if result.over > 0 and tuning.best.kv_bits < PLAIN_KV_BITS:  # a coarser cache that fails gives way to the plain one
        return _measure_and_judge(lab, replace(trial, at=tuning.plain), rivals)
    return result


def order_of(lab: Lab, recipe: Recipe) -> BuildOrder:
    """What has to be built for a recipe."""
    toml = to_toml(recipe) if recipe.steps else ""
    return BuildOrder(recipe.name, toml, lab.job.model.sha256, lab.job.step_context().fingerprint)


def _measure_and_judge(lab: Lab, trial: Trial, rivals: Rivals) -> CandidateResult:
    """Energy and quality of the same artifact at the same operating point, both against B1."""
    settings, reference, contender = lab.job.settings, rivals.reference, Contender.of(trial)
    lab.say(f"{trial.name}: measuring against {reference.name}")
    run = lab.run(stages.measure, MeasureOrder((reference, contender), settings.protocol.paired))
    order = JudgeOrder(reference, contender, settings.margins, screened=rivals.searching)
    judgement, names, windows = lab.run(judge, order), (reference.name, trial.name), run.windows
    judged = replace(
        trial,
        energy=energy_analysis.measurement(trial.name, windows, run.meter),
        quality=judgement.report,
        cpu_s_ratio_vs_B1=energy_analysis.ratio(*names, windows, energy_analysis.cpu_s_per_reply),
        energy_ratio_vs_B1=energy_analysis.energy_ratio(*names, windows, run.meter),
    )
    over = 0.0 if judgement.report.verdict == "PASS" else max(gate.missed(judgement.report.checks), gate.NOT_PASSED)
    readings = TrialReadings(trial.name, windows, judgement.inputs)
    return CandidateResult(judged, readings, stages.saving_of(*names, run), over)
