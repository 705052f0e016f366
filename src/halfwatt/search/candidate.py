"""One candidate: made, tuned to its operating point, measured against B1 and judged, all on the tune split.

    on the ladder    make - operating point - duel with B1 - the gate
    in a search      sketch - short duel - make - short duel - likelihood - operating point - duel with B1 - the gate
                     a candidate that cannot beat the best so far, or that the gate's G1 or G2 fails, ends there
                     a sketch is neither taught nor rounded with care, which changes little of what a reply takes

A likelihood that fails the gate fails it whatever the replies say, so nothing is lost by not asking for them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from statistics import fmean

from halfwatt.compress.base import Stage, StepContext
from halfwatt.compress.distil import Distil
from halfwatt.compress.recipe import Recipe, cheap_proxy, to_toml
from halfwatt.compress.registry import learns
from halfwatt.compress.training.batches import rows
from halfwatt.compress.training.loop import TrainingBudget
from halfwatt.core.errors import BadInput, HalfwattError
from halfwatt.core.estimate import Estimate
from halfwatt.core.machine import cores
from halfwatt.core.settings import Margins, MeasurePlan
from halfwatt.evaluate import energy_analysis, examine
from halfwatt.evaluate.claim import energy_ratio
from halfwatt.evaluate.energy_protocol import Arm, Run, measure
from halfwatt.evaluate.gate import by_likelihood, judge, likelihood_among
from halfwatt.evaluate.records import GateCheck, QualityInputs, QualityReport, TeacherScore
from halfwatt.evaluate.requests import Workload
from halfwatt.formats.artifact import Artifact
from halfwatt.meters.base import MeterInfo
from halfwatt.runtimes.base import OperatingPoint
from halfwatt.runtimes.serving_process import ServingProcess, ServingSpec
from halfwatt.search import build, build_process, operating_points
from halfwatt.search.job import Job
from halfwatt.search.stages import StageStore
from halfwatt.search.trial import Served, Trial, TrialReadings
from halfwatt.search.trial_store import TrialOutcome

_FEW, _BRIEF = 256, 2 * 4096  # dialogues and tokens by which the pace of teaching is told

_STUDENT = 0.45  # of the original's time for a token: a quarter for the student, and of the third for the original's
# answers, which a round's students share, its part

_PLAIN, _NOISE = 16, 1.03  # bits of a KV cache as the runtime keeps it; what a coarser one must save at least

_GUESSES = 2.0  # times less that a reply may take with a table of drafts: as many tokens are said in a pass at most

_NOT_PASSED = 1e-3  # nats: what a likelihood within its margin counts as where another check was not passed


@dataclass(frozen=True, slots=True)
class Evaluator:
    """What candidates meet: B1, on some dialogues."""

    job: Job
    journal: StageStore
    b1: Trial
    traffic: Workload


@dataclass(frozen=True, slots=True)
class CandidateResult:
    """A candidate with the readings that it was chosen by.

    saving:  what B1 takes over what it takes, as operating points are chosen; None = it was not measured
    over:    nats a token by which it misses the likelihood's margin; 0 or less = the gate passed it
    """

    trial: Trial
    readings: TrialReadings
    saving: Estimate | None = None
    over: float = 0.0

    @property
    def found(self) -> TrialOutcome:
        """What a search makes of it: the log of the share of B1 that it takes."""
        return TrialOutcome(None if self.saving is None else -math.log(self.saving.mean), self.over)


@dataclass(frozen=True, slots=True)
class Incumbent:
    """What a candidate of a search has to beat: the best saving that passed so far; None = nothing has.

    hope: times more that its operating point may save than a glance shows
    """

    saving: Estimate | None = None
    hope: float = 1.0

    def before(self, recipe: Recipe) -> Incumbent:
        """For a candidate of this recipe."""
        drafts = any(step.stage == Stage.DECODING for step in recipe.steps)
        return replace(self, hope=_GUESSES) if drafts else self


def evaluate_candidate(arena: Evaluator, recipe: Recipe, bar: Incumbent | None = None) -> CandidateResult:
    """One candidate, or why there is none. A fault of the recipe ends the rung, not the run.

    Args:
        bar: for a search, which rejects early; None = whatever it comes to, it is measured and judged in full.
    """

    ahead = None if bar is None else bar.before(recipe)

    def attempt() -> CandidateResult:
        arena.job.settings.progress(f"{recipe.name}: making it")
        lines = tuple(repr(step) for step in recipe.steps)
        blank = Trial(recipe.name, lines, "failed", None, None, OperatingPoint(), None, None)
        try:
            dear = None if ahead is None else _weighed(arena, recipe, blank, ahead)
            if dear is not None:
                return dear
            artifact = _built(arena, recipe)
        except (BadInput, build_process.BuildProcessDied) as error:
            return CandidateResult(replace(blank, reason=str(error)), TrialReadings(recipe.name, (), None))
        ready = replace(blank, status="done", artifact=artifact)
        scores: tuple[TeacherScore, ...] = ()
        if ahead is not None:
            rejected, scores = _screened(arena, ready, ahead)
            if rejected is not None:
                return rejected
        return _served_and_judged(arena, recipe, ready, ahead, scores)

    return arena.journal.once(f"rung-{recipe.slug}", CandidateResult, attempt)


def _built(arena: Evaluator, recipe: Recipe) -> Artifact:
    """What trains counts for itself; the rest is the run's."""
    job, told, context = arena.job, arena.traffic.dialogues, _context(arena.job)
    with arena.journal.tally.aside() if any(map(learns, recipe.steps)) else nullcontext():
        if job.name is None:
            return build.build(job.model, recipe, told, job.out / "artifacts", job.settings.access.device, context)
        chain, learned = to_toml(recipe), context.dialogues
        order = build_process.BuildOrder(
            job.name,
            job.settings.access,
            job.model.sha256,
            chain,
            told,
            learned,
            job.out,
            job.settings.seed,
            job.settings.rapl_root,
        )
        return build_process.build_in_process(order, job.settings.progress)


def _weighed(arena: Evaluator, recipe: Recipe, blank: Trial, bar: Incumbent) -> CandidateResult | None:
    """The end of a candidate whose sketch says that it would save less than the best so far, whatever it says."""
    steps = cheap_proxy(recipe.steps)
    if bar.saving is None or steps == recipe.steps:
        return None
    arena.job.settings.progress(f"{recipe.name}: what it would save, before it is made")
    at = replace(blank, artifact=_built(arena, Recipe("sketch", steps)), at=arena.b1.at)
    return _too_dear(arena, at, _duel(arena, at, arena.job.settings.protocol.screen), bar)


def _screened(arena: Evaluator, made: Trial, bar: Incumbent) -> tuple[CandidateResult | None, tuple[TeacherScore, ...]]:
    """(why it goes no further, ()), or (None, its likelihoods)."""
    job, at = arena.job, replace(made, at=arena.b1.at)
    job.settings.progress(f"{made.name}: a glance at what it saves")
    glance = _duel(arena, at, arena.job.settings.protocol.screen)
    dear = _too_dear(arena, at, glance, bar)
    if dear is not None:
        return dear, ()
    scores = examine.teacher_forced(arm(job, arena.b1).spec, arm(job, at).spec, arena.traffic, job.settings.progress)
    checks = by_likelihood(scores, job.settings.margins)
    failed = [check for check in checks if check.verdict == "FAIL"]
    if failed:
        reason = "; ".join(f"{c.layer} {c.name} is {_told(c.estimate)}, {c.margin}" for c in failed if c.estimate)
        return _rejected(arena, at, glance, reason, max(_over(checks, job.settings.margins), _NOT_PASSED)), ()
    return None, scores


def _too_dear(arena: Evaluator, at: Trial, glance: Run, bar: Incumbent) -> CandidateResult | None:
    """The end of a candidate that saves less than the best so far."""
    saving = _saving(at.name, glance)
    if bar.saving is None or bar.hope * saving.hi >= bar.saving.lo:
        return None
    reason = f"saves {_told(saving)} where the best so far saves {_told(bar.saving)}"
    return _rejected(arena, at, glance, reason, _NOT_PASSED)


def _rejected(arena: Evaluator, at: Trial, glance: Run, reason: str, over: float) -> CandidateResult:
    arena.job.settings.progress(f"{at.name}: {reason}")
    readings = TrialReadings(at.name, glance.windows, None)
    return CandidateResult(replace(at, status="rejected", reason=reason), readings, _saving(at.name, glance), over)


def _told(e: Estimate) -> str:
    return f"{e.mean:.3g} [{e.lo:.3g}, {e.hi:.3g}] {e.unit}"


def _over(checks: Sequence[GateCheck], margins: Margins) -> float:
    """Nats by which the likelihood's upper bound misses its margin."""
    check = likelihood_among(checks)
    return (check.estimate.hi if check and check.estimate else 1.0) - math.log1p(margins.perplexity)


def _saving(name: str, run: Run) -> Estimate:
    """By what operating points are chosen by; the model's own error is the same for all, and is left out."""
    return energy_analysis.ratio("B1", name, run.windows, cost_of(run.meter))


def _served_and_judged(
    arena: Evaluator, recipe: Recipe, made: Trial, bar: Incumbent | None, scores: tuple[TeacherScore, ...]
) -> CandidateResult:
    """At its cheapest operating point; a coarser cache that the gate does not pass is given up for the plain one."""
    candidate = tuned(arena.job, arena.journal, recipe.slug, made, arena.traffic, coarser=True)
    if bar is not None and _unused(candidate):
        reason = "its draft is not used: without it a reply takes less, so it is the recipe without a draft"
        arena.job.settings.progress(f"{candidate.name}: {reason}")
        return CandidateResult(
            replace(candidate, status="rejected", reason=reason), TrialReadings(candidate.name, (), None)
        )
    if candidate.at.kv_bits < _PLAIN:
        rung = _judged(arena, candidate, ())
        if rung.over <= 0:
            return rung
        candidate = replace(candidate, at=next(way.at for way in candidate.tried if way.at.kv_bits == _PLAIN))
    return _judged(arena, candidate, scores)


def _unused(candidate: Trial) -> bool:
    """Does it carry a draft that its operating point leaves alone?"""
    guesses = candidate.at.speculation
    drafts = candidate.artifact is not None and candidate.artifact.draft is not None
    return drafts and (guesses is None or guesses.kind != "table")


def _judged(arena: Evaluator, candidate: Trial, scores: tuple[TeacherScore, ...]) -> CandidateResult:
    """Measure the candidate against B1, and let the gate look at it, both on the tune split."""
    job = arena.job
    job.settings.progress(f"{candidate.name}: measuring against B1")
    run = _duel(arena, candidate, job.settings.protocol.paired)
    inputs = examined(arena, candidate, "tune", scores)
    report = verdict(job, inputs, "tune")
    judged = replace(
        candidate,
        energy=energy_analysis.measurement(candidate.name, run.windows, run.meter),
        quality=report,
        cpu_s_ratio_vs_B1=energy_analysis.ratio("B1", candidate.name, run.windows, energy_analysis.cpu_s_per_reply),
        energy_ratio_vs_B1=energy_ratio("B1", candidate.name, run),
    )
    over = _over(report.checks, job.settings.margins)
    over = min(over, 0.0) if report.verdict == "PASS" else max(over, _NOT_PASSED)
    return CandidateResult(
        judged, TrialReadings(candidate.name, run.windows, inputs), _saving(candidate.name, run), over
    )


def _duel(arena: Evaluator, candidate: Trial, plan: MeasurePlan) -> Run:
    job, seen = arena.job, arena.traffic
    arms = [arm(job, arena.b1), arm(job, candidate)]
    return measure(arms, seen, plan, job.tools, job.settings.progress)


def tuned(job: Job, journal: StageStore, name: str, trial: Trial, seen: Workload, *, coarser: bool = False) -> Trial:
    """At its cheapest operating point: tried by threads, and with the best of these by what else can be chosen.

    coarser: a KV cache of fewer bits may be chosen, which changes replies; it has to save more than noise does
    """
    artifact = trial.artifact
    assert artifact is not None, "a trial without an artifact is never measured"

    def tried(points: Sequence[OperatingPoint]) -> list[Served]:
        """Each with its share of the first."""
        arms = [Arm(str(n), _spec(job, artifact, point)) for n, point in enumerate(points)]
        run = measure(arms, seen, job.settings.protocol.tune, job.tools, job.settings.progress)
        costs = _costs(run, arms)
        return [Served(point, cost / costs[0]) for point, cost in zip(points, costs, strict=True)]

    def sweep() -> tuple[Served, ...]:
        job.settings.progress(f"{name}: searching the operating point")
        found = sorted(tried(operating_points.by_threads(cores())), key=lambda way: way.share)
        first = found[0]
        for further in (
            operating_points.by_guesses(artifact, first.at),
            operating_points.by_batches(first.at, job.settings.search.users, cores()),
            _caches(job, artifact, first.at) if coarser else [],
        ):
            if len(further) > 1:
                found += [replace(way, share=way.share * first.share) for way in tried(further)[1:]]
        return tuple(sorted(found, key=lambda way: way.share * (1.0 if way.at.kv_bits == _PLAIN else _NOISE)))

    ways = journal.once(f"operating-point-{name}", tuple[Served, ...], sweep)
    return replace(trial, at=ways[0].at, tried=ways)


def _caches(job: Job, artifact: Artifact, at: OperatingPoint) -> list[OperatingPoint]:
    return [way for way in operating_points.by_caches(at) if way == at or _opens(_spec(job, artifact, way))]


def _opens(spec: ServingSpec) -> bool:
    """Only the runtime knows whether it can keep its cache so: the size of a head decides, for one."""
    try:
        with ServingProcess(spec):
            return True
    except HalfwattError:
        return False


def _costs(run: Run, arms: Sequence[Arm]) -> list[float]:
    """Of a reply, as operating points are chosen by."""
    per_arm = energy_analysis.Arms.of(run.windows)
    return [fmean(per_arm.per_block(arm.name, cost_of(run.meter)).values()) for arm in arms]


def cost_of(meter: MeterInfo | None) -> energy_analysis.Figure:
    """What an operating point is chosen by: joules, or measured CPU-seconds where joules would only be modelled.

    The model's error is largest between thread counts, and it knows nothing of what a pass over several tokens costs.
    """
    if meter is None or meter.kind == "modelled":
        return energy_analysis.cpu_s_per_reply
    return energy_analysis.joules(meter)


def examined(arena: Evaluator, candidate: Trial, split: str, scores: tuple[TeacherScore, ...] = ()) -> QualityInputs:
    """What the gate reads of a candidate. scores: its likelihoods, where they are known already."""
    job, reference, own = arena.job, arm(arena.job, arena.b1).spec, arm(arena.job, candidate).spec
    replies = build.reference_replies(reference, arena.traffic, arena.journal, split, job.settings.progress)
    return examine.examine(reference, own, arena.traffic, replies, job.settings.progress, scores)


def verdict(job: Job, inputs: QualityInputs, split: str) -> QualityReport:
    """The gate's report."""
    return judge(
        inputs,
        split=split,
        margins=job.settings.margins,
        special=job.model.tokenizer.special_tokens,
        seed=job.settings.seed,
    )


def arm(job: Job, trial: Trial) -> Arm:
    """A candidate as something to be measured."""
    assert trial.artifact is not None, "a trial without an artifact is never measured"
    return Arm(trial.name, _spec(job, trial.artifact, trial.at))


def _spec(job: Job, artifact: Artifact, at: OperatingPoint) -> ServingSpec:
    return ServingSpec(
        artifact,
        at,
        job.settings.access.device,
        job.settings.access.dtype,
        job.settings.commands.get(artifact.runtime, ()),
    )


def pace(job: Job) -> float:
    """Seconds a token in which a student can be taught here, told by how fast the original learns."""
    context = _context(job)
    brief = replace(context, dialogues=context.some(_FEW), work=None, budget=TrainingBudget(tokens=_BRIEF))
    spent = Distil(kind="labels").apply(job.model, brief).spent[-1]
    return _STUDENT * spent.wall_s / spent.tokens


def tokens_of(job: Job) -> int:
    """About how many tokens there are to learn from."""
    if job.train is None:
        return 0
    some = _context(job).some(_FEW)
    told = rows(some, job.model.tokenizer, Distil().longest)
    return round(sum(len(row.ids) for row in told) / len(some) * len(job.train.dialogues))


def _context(job: Job) -> StepContext:
    """What the steps of a recipe may use: the training split and nothing of the other two."""
    return StepContext(
        dialogues=() if job.train is None else job.train.dialogues,
        work=job.out / "training",
        device=job.settings.access.device,
        seed=job.settings.seed,
        meter=job.tools.primary,
        progress=job.settings.progress,
    )
