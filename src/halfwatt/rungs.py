"""One candidate: made, tuned to its operating point, measured against B1 and judged, all on the tune split.

    on the ladder    make - operating point - duel with B1 - the gate
    in a search      sketch - short duel - make - short duel - likelihood - operating point - duel with B1 - the gate
                     a candidate that cannot beat the best so far, or that the gate's G1 or G2 fails, ends there
                     a sketch is neither taught nor rounded with care, which changes little of what a reply takes

A likelihood that fails the gate fails it whatever the replies say, so nothing is lost by not asking for them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean

from halfwatt import accounting, maker, operating, pipeline
from halfwatt.artifacts import Access
from halfwatt.batches import rows
from halfwatt.chat_model import ChatModel
from halfwatt.claims import energy_ratio
from halfwatt.dialogue import DialogueSet, SealedSplit
from halfwatt.errors import BadInput, HalfwattError
from halfwatt.estimate import Estimate
from halfwatt.explore import Budget
from halfwatt.journal import Journal
from halfwatt.pipeline import Traffic
from halfwatt.provenance import cores
from halfwatt.quality import Margins, by_likelihood, judge, likelihood_among
from halfwatt.recipe import Recipe, ladder, sketched, written
from halfwatt.records import (
    Artifact,
    GateCheck,
    MeterInfo,
    OperatingPoint,
    QualityInputs,
    QualityReport,
    Served,
    TeacherScore,
    Trial,
    TrialReadings,
)
from halfwatt.steps.adopt import Adopt
from halfwatt.steps.available import learns
from halfwatt.steps.base import Stage, StepContext
from halfwatt.steps.distil import Distil
from halfwatt.study import Found
from halfwatt.training import TrainingBudget
from halfwatt.worker import Spec, Worker
from halfwatt.workload import Arm, Instruments, Plan, Progress, Run, measure

SWEEP = Plan(min_blocks=2, max_blocks=2, window_s=1.0, prefill=False, idle_s=3.0)
DUEL = Plan(min_blocks=3, max_blocks=12, window_s=1.5, prefill=False, idle_s=3.0)
GLANCE = Plan(min_blocks=3, max_blocks=3, window_s=1.0, prefill=False, idle_s=3.0)
_FEW, _BRIEF = 256, 2 * 4096  # dialogues and tokens by which the pace of teaching is told
_STUDENT = 0.45  # of the original's time for a token: a quarter for the student, and of the third for the original's
# answers, which a round's students share, its part
_PLAIN, _NOISE = 16, 1.03  # bits of a KV cache as the runtime keeps it; what a coarser one must save at least
_GUESSES = 2.0  # times less that a reply may take with a table of drafts: as many tokens are said in a pass at most
_NOT_PASSED = 1e-3  # nats: what a likelihood within its margin counts as where another check was not passed


@dataclass(frozen=True, slots=True)
class Job:
    """One optimisation: a model, its traffic, how much may be lost, and where to work."""

    model: ChatModel
    tune: DialogueSet
    test: SealedSplit
    out: Path
    tools: Instruments
    train: DialogueSet | None = None  # what steps may learn from
    outside: Mapping[str, DialogueSet] = field(default_factory=dict)  # other kinds of dialogue, by name
    recipes: tuple[Recipe, ...] = field(default_factory=ladder)
    budget: Budget | None = None  # of a search beyond these recipes; None = no such search
    adopted: tuple[Adopt, ...] = ()  # smaller models that it may begin with
    storage: str | None = None  # of its trials, to share them: a path or a database URL; None = in ``out``
    rapl_root: str | None = None
    margins: Margins = field(default_factory=Margins)
    device: str = "cpu"
    dtype: str = "auto"
    named: tuple[str, Access] | None = None  # how makers in other processes get the model; None = there are none
    users: int = 1  # who may be answered at once
    replies_per_hour: float | None = None  # of the traffic; None = unknown, and a trial need not repay itself
    commands: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # of workers for other runtimes, by name
    seed: int = 0
    progress: Progress = lambda _: None


@dataclass(frozen=True, slots=True)
class Arena:
    """What candidates meet: B1, on some dialogues."""

    job: Job
    journal: Journal
    b1: Trial
    traffic: Traffic


@dataclass(frozen=True, slots=True)
class Rung:
    """A candidate with the readings that it was chosen by.

    saving:  what B1 takes over what it takes, as operating points are chosen; None = it was not measured
    over:    nats a token by which it misses the likelihood's margin; 0 or less = the gate passed it
    """

    trial: Trial
    readings: TrialReadings
    saving: Estimate | None = None
    over: float = 0.0

    @property
    def found(self) -> Found:
        """What a search makes of it: the log of the share of B1 that it takes."""
        return Found(None if self.saving is None else -math.log(self.saving.mean), self.over)


@dataclass(frozen=True, slots=True)
class Bar:
    """What a candidate of a search has to beat: the best saving that passed so far; None = nothing has.

    hope: times more that its operating point may save than a glance shows
    """

    saving: Estimate | None = None
    hope: float = 1.0

    def before(self, recipe: Recipe) -> Bar:
        """For a candidate of this recipe."""
        drafts = any(step.stage == Stage.DECODING for step in recipe.steps)
        return replace(self, hope=_GUESSES) if drafts else self


def climbed(arena: Arena, recipe: Recipe, bar: Bar | None = None) -> Rung:
    """One candidate, or why there is none. A fault of the recipe ends the rung, not the run.

    Args:
        bar: for a search, which rejects early; None = whatever it comes to, it is measured and judged in full.
    """

    ahead = None if bar is None else bar.before(recipe)

    def attempt() -> Rung:
        arena.job.progress(f"{recipe.name}: making it")
        lines = tuple(repr(step) for step in recipe.steps)
        blank = Trial(recipe.name, lines, "failed", None, None, OperatingPoint(), None, None)
        try:
            dear = None if ahead is None else _weighed(arena, recipe, blank, ahead)
            if dear is not None:
                return dear
            artifact = _built(arena, recipe)
        except (BadInput, maker.MakerDied) as error:
            return Rung(replace(blank, reason=str(error)), TrialReadings(recipe.name, (), None))
        ready = replace(blank, status="done", artifact=artifact)
        scores: tuple[TeacherScore, ...] = ()
        if ahead is not None:
            rejected, scores = _screened(arena, ready, ahead)
            if rejected is not None:
                return rejected
        return _served_and_judged(arena, recipe, ready, ahead, scores)

    return arena.journal.once(f"rung-{recipe.slug}", Rung, attempt)


def _built(arena: Arena, recipe: Recipe) -> Artifact:
    """What trains counts for itself; the rest is the run's."""
    job, told, context = arena.job, arena.traffic.dialogues, _context(arena.job)
    with arena.journal.tally.aside() if any(map(learns, recipe.steps)) else nullcontext():
        if job.named is None:
            return pipeline.build(job.model, recipe, told, job.out / "artifacts", job.device, context)
        chain, learned = written(recipe), context.dialogues
        order = maker.Order(*job.named, job.model.sha256, chain, told, learned, job.out, job.seed, job.rapl_root)
        return maker.made(order, job.progress)


# --- screens -------------------------------------------------------------------------------------------------------


def _weighed(arena: Arena, recipe: Recipe, blank: Trial, bar: Bar) -> Rung | None:
    """The end of a candidate whose sketch says that it would save less than the best so far, whatever it says."""
    steps = sketched(recipe.steps)
    if bar.saving is None or steps == recipe.steps:
        return None
    arena.job.progress(f"{recipe.name}: what it would save, before it is made")
    at = replace(blank, artifact=_built(arena, Recipe("sketch", steps)), at=arena.b1.at)
    return _too_dear(arena, at, _duel(arena, at, GLANCE), bar)


def _screened(arena: Arena, made: Trial, bar: Bar) -> tuple[Rung | None, tuple[TeacherScore, ...]]:
    """(why it goes no further, ()), or (None, its likelihoods)."""
    job, at = arena.job, replace(made, at=arena.b1.at)
    job.progress(f"{made.name}: a glance at what it saves")
    glance = _duel(arena, at, GLANCE)
    dear = _too_dear(arena, at, glance, bar)
    if dear is not None:
        return dear, ()
    scores = pipeline.teacher_forced(arm(job, arena.b1).spec, arm(job, at).spec, arena.traffic, job.progress)
    checks = by_likelihood(scores, job.margins)
    failed = [check for check in checks if check.verdict == "FAIL"]
    if failed:
        reason = "; ".join(f"{c.layer} {c.name} is {_told(c.estimate)}, {c.margin}" for c in failed if c.estimate)
        return _rejected(arena, at, glance, reason, max(_over(checks, job.margins), _NOT_PASSED)), ()
    return None, scores


def _too_dear(arena: Arena, at: Trial, glance: Run, bar: Bar) -> Rung | None:
    """The end of a candidate that saves less than the best so far."""
    saving = _saving(at.name, glance)
    if bar.saving is None or bar.hope * saving.hi >= bar.saving.lo:
        return None
    reason = f"saves {_told(saving)} where the best so far saves {_told(bar.saving)}"
    return _rejected(arena, at, glance, reason, _NOT_PASSED)


def _rejected(arena: Arena, at: Trial, glance: Run, reason: str, over: float) -> Rung:
    arena.job.progress(f"{at.name}: {reason}")
    readings = TrialReadings(at.name, glance.windows, None)
    return Rung(replace(at, status="rejected", reason=reason), readings, _saving(at.name, glance), over)


def _told(e: Estimate) -> str:
    return f"{e.mean:.3g} [{e.lo:.3g}, {e.hi:.3g}] {e.unit}"


def _over(checks: Sequence[GateCheck], margins: Margins) -> float:
    """Nats by which the likelihood's upper bound misses its margin."""
    check = likelihood_among(checks)
    return (check.estimate.hi if check and check.estimate else 1.0) - math.log1p(margins.perplexity)


def _saving(name: str, run: Run) -> Estimate:
    """By what operating points are chosen by; the model's own error is the same for all, and is left out."""
    return accounting.ratio("B1", name, run.windows, cost_of(run.meter))


# --- in full -------------------------------------------------------------------------------------------------------


def _served_and_judged(
    arena: Arena, recipe: Recipe, made: Trial, bar: Bar | None, scores: tuple[TeacherScore, ...]
) -> Rung:
    """At its cheapest operating point; a coarser cache that the gate does not pass is given up for the plain one."""
    candidate = tuned(arena.job, arena.journal, recipe.slug, made, arena.traffic, coarser=True)
    if bar is not None and _unused(candidate):
        reason = "its draft is not used: without it a reply takes less, so it is the recipe without a draft"
        arena.job.progress(f"{candidate.name}: {reason}")
        return Rung(replace(candidate, status="rejected", reason=reason), TrialReadings(candidate.name, (), None))
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


def _judged(arena: Arena, candidate: Trial, scores: tuple[TeacherScore, ...]) -> Rung:
    """Measure the candidate against B1, and let the gate look at it, both on the tune split."""
    job = arena.job
    job.progress(f"{candidate.name}: measuring against B1")
    run = _duel(arena, candidate, DUEL)
    inputs = examined(arena, candidate, "tune", scores)
    report = verdict(job, inputs, "tune")
    judged = replace(
        candidate,
        energy=accounting.measurement(candidate.name, run.windows, run.meter),
        quality=report,
        cpu_s_ratio_vs_B1=accounting.ratio("B1", candidate.name, run.windows, accounting.cpu_s_per_reply),
        energy_ratio_vs_B1=energy_ratio("B1", candidate.name, run),
    )
    over = _over(report.checks, job.margins)
    over = min(over, 0.0) if report.verdict == "PASS" else max(over, _NOT_PASSED)
    return Rung(judged, TrialReadings(candidate.name, run.windows, inputs), _saving(candidate.name, run), over)


def _duel(arena: Arena, candidate: Trial, plan: Plan) -> Run:
    job, seen = arena.job, arena.traffic
    arms = [arm(job, arena.b1), arm(job, candidate)]
    return measure(arms, seen.dialogues, seen.greedy, replace(plan, seed=job.seed), job.tools, job.progress)


def tuned(job: Job, journal: Journal, name: str, trial: Trial, seen: Traffic, *, coarser: bool = False) -> Trial:
    """At its cheapest operating point: tried by threads, and with the best of these by what else can be chosen.

    coarser: a KV cache of fewer bits may be chosen, which changes replies; it has to save more than noise does
    """
    artifact = trial.artifact
    assert artifact is not None, "a trial without an artifact is never measured"

    def tried(points: Sequence[OperatingPoint]) -> list[Served]:
        """Each with its share of the first."""
        arms = [Arm(str(n), _spec(job, artifact, point)) for n, point in enumerate(points)]
        run = measure(arms, seen.dialogues, seen.greedy, replace(SWEEP, seed=job.seed), job.tools, job.progress)
        costs = _costs(run, arms)
        return [Served(point, cost / costs[0]) for point, cost in zip(points, costs, strict=True)]

    def sweep() -> tuple[Served, ...]:
        job.progress(f"{name}: searching the operating point")
        found = sorted(tried(operating.by_threads(cores())), key=lambda way: way.share)
        first = found[0]
        for further in (
            operating.by_guesses(artifact, first.at),
            operating.by_batches(first.at, job.users, cores()),
            _caches(job, artifact, first.at) if coarser else [],
        ):
            if len(further) > 1:
                found += [replace(way, share=way.share * first.share) for way in tried(further)[1:]]
        return tuple(sorted(found, key=lambda way: way.share * (1.0 if way.at.kv_bits == _PLAIN else _NOISE)))

    ways = journal.once(f"operating-point-{name}", tuple[Served, ...], sweep)
    return replace(trial, at=ways[0].at, tried=ways)


def _caches(job: Job, artifact: Artifact, at: OperatingPoint) -> list[OperatingPoint]:
    return [way for way in operating.by_caches(at) if way == at or _opens(_spec(job, artifact, way))]


def _opens(spec: Spec) -> bool:
    """Only the runtime knows whether it can keep its cache so: the size of a head decides, for one."""
    try:
        with Worker(spec):
            return True
    except HalfwattError:
        return False


def _costs(run: Run, arms: Sequence[Arm]) -> list[float]:
    """Of a reply, as operating points are chosen by."""
    per_arm = accounting.Arms.of(run.windows)
    return [fmean(per_arm.per_block(arm.name, cost_of(run.meter)).values()) for arm in arms]


def cost_of(meter: MeterInfo | None) -> accounting.Figure:
    """What an operating point is chosen by: joules, or measured CPU-seconds where joules would only be modelled.

    The model's error is largest between thread counts, and it knows nothing of what a pass over several tokens costs.
    """
    if meter is None or meter.kind == "modelled":
        return accounting.cpu_s_per_reply
    return accounting.joules(meter)


# --- small shared pieces -------------------------------------------------------------------------------------------


def examined(arena: Arena, candidate: Trial, split: str, scores: tuple[TeacherScore, ...] = ()) -> QualityInputs:
    """What the gate reads of a candidate. scores: its likelihoods, where they are known already."""
    job, reference, own = arena.job, arm(arena.job, arena.b1).spec, arm(arena.job, candidate).spec
    replies = pipeline.reference_replies(reference, arena.traffic, arena.journal, split, job.progress)
    return pipeline.examine(reference, own, arena.traffic, replies, job.progress, scores)


def verdict(job: Job, inputs: QualityInputs, split: str) -> QualityReport:
    """The gate's report."""
    return judge(inputs, split=split, margins=job.margins, special=job.model.tokenizer.special_tokens, seed=job.seed)


def arm(job: Job, trial: Trial) -> Arm:
    """A candidate as something to be measured."""
    assert trial.artifact is not None, "a trial without an artifact is never measured"
    return Arm(trial.name, _spec(job, trial.artifact, trial.at))


def _spec(job: Job, artifact: Artifact, at: OperatingPoint) -> Spec:
    return Spec(artifact, at, job.device, job.dtype, job.commands.get(artifact.runtime, ()))


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
        device=job.device,
        seed=job.seed,
        meter=job.tools.primary,
        progress=job.progress,
    )
