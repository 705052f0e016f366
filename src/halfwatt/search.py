"""The ladder: from the original to the fewest joules that pass the gate.

    B0  the original as commonly run (transformers, stored dtype, its own threads)
    B1  the original in the best runtime, at its best operating point
    then int8, int4 with an int8 head, int4, or the recipe that was given, or with a budget what Optuna proposes until
    it is spent (explore.py): each exported, proved, tuned to its operating point, measured against B1 and judged on
    the tune split
    the winner alone meets B0 and B1 in one interleaved run and is judged on the sealed test split

The original is always a candidate: when nothing is proven better it is delivered in its best runtime form. Every stage
is written down when it is finished, so a run that was killed goes on with the next one and ends with the same verdicts.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from os import getpid
from pathlib import Path

from halfwatt import accounting, operating, pipeline
from halfwatt.chat_model import ChatModel
from halfwatt.claims import energy_ratio, make_claim
from halfwatt.dialogue import DialogueSet, SealedSplit
from halfwatt.errors import BadInput
from halfwatt.estimate import Estimate
from halfwatt.explore import Budget, explore
from halfwatt.journal import Journal
from halfwatt.pipeline import Speech, Traffic
from halfwatt.provenance import cores
from halfwatt.quality import Margins, judge, likelihood_check
from halfwatt.recipe import Recipe, ladder
from halfwatt.records import (
    Artifact,
    Claim,
    Measurement,
    MeterInfo,
    OperatingPoint,
    Outside,
    QualityInputs,
    QualityReport,
    Trial,
    TrialReadings,
)
from halfwatt.runtimes.torch_eager import TorchEager
from halfwatt.space import Space
from halfwatt.steps.adopt import Adopt
from halfwatt.steps.base import Stage, StepContext
from halfwatt.study import RECIPE, Found, Study
from halfwatt.worker import Spec
from halfwatt.workload import Arm, Instruments, Plan, Progress, Run, measure

SWEEP = Plan(min_blocks=2, max_blocks=2, window_s=1.0, prefill=False, idle_s=3.0)
DUEL = Plan(min_blocks=3, max_blocks=12, window_s=1.5, prefill=False, idle_s=3.0)
FINAL = Plan(min_blocks=7)
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
    seed: int = 0
    progress: Progress = lambda _: None


@dataclass(frozen=True, slots=True)
class Rung:
    """A candidate with the readings that it was chosen by."""

    trial: Trial
    readings: TrialReadings


@dataclass(frozen=True, slots=True)
class Climb:
    """What the tune split chose."""

    b0: Trial
    b1: Trial
    rungs: tuple[Rung, ...]
    champion: Trial  # what meets the baselines in the final run: the best candidate, or B1 itself


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a search found, before it is written up."""

    climb: Climb  # with the baselines' energy from the final run
    final: Run
    measured: tuple[Measurement, ...]  # B0, B1, winner
    quality: QualityReport
    inputs: QualityInputs
    claim: Claim
    delivered: Trial
    test: Traffic
    notes: tuple[str, ...]
    outside: tuple[Outside, ...] = ()


def optimize(job: Job) -> Outcome:
    """Climb the ladder.

    Raises:
        BadInput: the output folder holds another run.
        MeterError, TaintedRun: nothing could be measured.
    """
    journal = Journal(job.out / "stages", _identity(job))
    speech = Speech(job.model.tokenizer, job.model.generation, job.model.context)
    tune = pipeline.traffic(job.tune, speech)
    b0, b1 = _baselines(job, journal, tune)
    job = replace(job, recipes=(*job.recipes, *_explored(job, journal, b1, tune)))
    rungs = tuple(_rung(job, journal, recipe, b1, tune) for recipe in job.recipes)
    climb = Climb(b0, b1, rungs, best([rung.trial for rung in rungs]) or b1)
    job.progress(f"the final run: B0, B1 and {climb.champion.name} on the sealed test split")
    sealed = job.test.open(_fingerprint(climb.champion))
    test = pipeline.traffic(sealed, speech)
    outcome = _final(job, journal, climb, test, tune.notes + test.notes)
    return replace(outcome, outside=outside(job, journal, climb, speech))


def best(trials: Sequence[Trial]) -> Trial | None:
    """The candidate with the fewest joules per reply among those that the tune split lets through.

    Proven ones before undecided ones; only savings over B1 whose interval excludes 1. A trial without energy or
    quality is no candidate.
    """
    rank = {"PASS": 0, "INCONCLUSIVE": 1}
    able = [
        (rank[t.quality.verdict], -_saving(t).mean, t)
        for t in trials
        if t.status == "done" and t.quality is not None and t.quality.verdict in rank and _saving(t).lo > 1
    ]
    return min(able, key=lambda item: item[:2])[2] if able else None


def _saving(trial: Trial) -> Estimate:
    found = trial.energy_ratio_vs_B1 or trial.cpu_s_ratio_vs_B1
    assert found is not None, "a finished trial was measured"
    return found


# --- the rungs -----------------------------------------------------------------------------------------------------


def _baselines(job: Job, journal: Journal, tune: Traffic) -> tuple[Trial, Trial]:
    job.progress("B0: the original as commonly run")
    original = journal.once(
        "b0-artifact", Artifact, lambda: TorchEager(job.device, job.dtype).export(job.model, job.out / "artifacts/b0")
    )
    b0 = _plain_trial("B0", original, OperatingPoint(reuse_prefix=False))
    job.progress("B1: the original in the best runtime")
    exported = pipeline.build(job.model, Recipe("B1"), tune.dialogues, job.out / "artifacts", job.device)
    at = _operating_point(job, journal, "B1", exported, tune)
    return b0, _plain_trial("B1", exported, at)


def _plain_trial(name: str, artifact: Artifact, at: OperatingPoint) -> Trial:
    return Trial(name, (), "done", None, artifact, at, None, None)


def _rung(job: Job, journal: Journal, recipe: Recipe, b1: Trial, tune: Traffic) -> Rung:
    """One candidate, or why there is none. A fault of the recipe ends the rung, not the run."""

    def attempt() -> Rung:
        job.progress(f"{recipe.name}: making it")
        lines = tuple(repr(step) for step in recipe.steps)
        blank = Trial(recipe.name, lines, "failed", None, None, OperatingPoint(), None, None)
        try:
            folder, context = job.out / "artifacts", _context(job)
            artifact = pipeline.build(job.model, recipe, tune.dialogues, folder, job.device, context)
        except BadInput as error:
            return Rung(replace(blank, reason=str(error)), TrialReadings(recipe.name, (), None))
        at = _operating_point(job, journal, recipe.slug, artifact, tune)
        return _judged(job, journal, replace(blank, status="done", artifact=artifact, at=at), b1, tune)

    return journal.once(f"rung-{recipe.slug}", Rung, attempt)


def _explored(job: Job, journal: Journal, b1: Trial, tune: Traffic) -> list[Recipe]:
    """What Optuna proposed and was tried here, and the best of what other workers tried."""
    if job.budget is None:
        return []
    space = Space.of(job.model, job.adopted, job.train is not None)

    def assess(recipe: Recipe) -> Found:
        return came_to(_rung(job, journal, recipe, b1, tune).trial, job.margins)

    name = hashlib.sha256(repr(_identity(replace(job, budget=None))).encode()).hexdigest()[:12]
    where, seed = (job.out / "stages" / "search.journal", job.seed) if job.storage is None else (job.storage, getpid())
    with closing(Study(where, name, seed)) as study:
        for decisions in space.first():
            study.first(decisions)
        counter = job.tools.primary
        joules = (lambda: None) if counter is None else (lambda: counter.read().joules)
        tried = explore(study, space.recipe, assess, job.budget, joules)
        best = study.best()
    chosen = None if best is None else best.user_attrs[RECIPE]
    return [recipe for recipe in tried if recipe.name == chosen or journal.has(f"rung-{recipe.slug}")]


def came_to(trial: Trial, margins: Margins) -> Found:
    """For the search: the log of B1's share that it costs, and how far it is from passing in nats of likelihood.

    A trial without energy or quality has no cost; one that the gate did not pass breaks the constraint, however near.
    """
    if trial.status != "done" or trial.quality is None:
        return Found(None)
    check = likelihood_check(trial.quality)
    bound = check.estimate.hi if check and check.estimate else 1.0
    over = bound - math.log1p(margins.perplexity)
    passed = trial.quality.verdict == "PASS"
    return Found(-math.log(_saving(trial).mean), min(over, 0.0) if passed else max(over, _NOT_PASSED))


def _judged(job: Job, journal: Journal, candidate: Trial, b1: Trial, tune: Traffic) -> Rung:
    """Measure the candidate against B1, and let the gate look at it, both on the tune split."""
    job.progress(f"{candidate.name}: measuring against B1")
    arms = [_arm(job, b1), _arm(job, candidate)]
    run = measure(arms, tune.dialogues, tune.greedy, replace(DUEL, seed=job.seed), job.tools, job.progress)
    inputs = _inputs(job, journal, b1, candidate, tune, "tune")
    judged = replace(
        candidate,
        energy=accounting.measurement(candidate.name, run.windows, run.meter),
        quality=_judge(job, inputs, "tune"),
        cpu_s_ratio_vs_B1=accounting.ratio("B1", candidate.name, run.windows, accounting.cpu_s_per_reply),
        energy_ratio_vs_B1=energy_ratio("B1", candidate.name, run),
    )
    return Rung(judged, TrialReadings(candidate.name, run.windows, inputs))


def _operating_point(job: Job, journal: Journal, name: str, artifact: Artifact, tune: Traffic) -> OperatingPoint:
    """What costs the least: first the threads for decode and prefill, then whether to guess ahead with them."""

    def cheapest(points: Sequence[OperatingPoint]) -> OperatingPoint:
        arms = [Arm(str(n), Spec(artifact, point, job.device, job.dtype)) for n, point in enumerate(points)]
        run = measure(arms, tune.dialogues, tune.greedy, replace(SWEEP, seed=job.seed), job.tools, job.progress)
        per_arm = accounting.Arms.of(run.windows)
        return min(points, key=lambda p: sum(per_arm.per_block(str(points.index(p)), cost_of(run.meter)).values()))

    def sweep() -> OperatingPoint:
        job.progress(f"{name}: searching the operating point")
        return cheapest(operating.by_guesses(artifact, cheapest(operating.by_threads(cores()))))

    return journal.once(f"operating-point-{name}", OperatingPoint, sweep)


def cost_of(meter: MeterInfo | None) -> accounting.Figure:
    """What an operating point is chosen by: joules, or measured CPU-seconds where joules would only be modelled.

    The model's error is largest between thread counts, and it knows nothing of what a pass over several tokens costs.
    """
    if meter is None or meter.kind == "modelled":
        return accounting.cpu_s_per_reply
    return accounting.joules(meter)


# --- the final run -------------------------------------------------------------------------------------------------


def _final(job: Job, journal: Journal, climb: Climb, test: Traffic, notes: tuple[str, ...]) -> Outcome:
    arms = [_arm(job, climb.b0), _arm(job, climb.b1), replace(_arm(job, climb.champion), name="winner")]
    plan = replace(FINAL, seed=job.seed)
    run = journal.once(
        "final-run", Run, lambda: measure(arms, test.dialogues, test.greedy, plan, job.tools, job.progress)
    )
    inputs = journal.once(
        "final-quality", QualityInputs, lambda: _inputs(job, journal, climb.b1, climb.champion, test, "test")
    )
    report = _judge(job, inputs, "test")
    claim = make_claim(run, report, climb.champion.name)
    measured = tuple(accounting.measurement(arm.name, run.windows, run.meter) for arm in arms)
    return Outcome(
        climb=replace(climb, b0=replace(climb.b0, energy=measured[0]), b1=replace(climb.b1, energy=measured[1])),
        final=run,
        measured=measured,
        quality=report,
        inputs=inputs,
        claim=claim,
        delivered=climb.champion if claim.verdict == "PASS" else climb.b1,
        test=test,
        notes=notes,
    )


def outside(job: Job, journal: Journal, climb: Climb, speech: Speech) -> tuple[Outside, ...]:
    """What the champion lost on other kinds of dialogue, where its recipe cut or trained weights by the user's own."""
    steps = next((recipe.steps for recipe in job.recipes if recipe.name == climb.champion.name), ())
    assert climb.champion.artifact is not None, "it was measured"
    if not climb.champion.artifact.spent and all(step.stage >= Stage.NUMERICS for step in steps):
        return ()

    def met(kind: str, number: int) -> Outside:
        job.progress(f"what {climb.champion.name} lost on other dialogues: {kind}")
        seen = pipeline.traffic(job.outside[kind], speech)
        inputs = _inputs(job, journal, climb.b1, climb.champion, seen, f"outside-{number}")
        return Outside(kind, _judge(job, inputs, f"outside: {kind}"), inputs)

    stages = enumerate(job.outside)
    return tuple(journal.once(f"outside-{n}", Outside, partial(met, kind, n)) for n, kind in stages)


# --- small shared pieces -------------------------------------------------------------------------------------------


def _inputs(job: Job, journal: Journal, b1: Trial, candidate: Trial, found: Traffic, split: str) -> QualityInputs:
    reference, cand = _arm(job, b1).spec, _arm(job, candidate).spec
    replies = pipeline.reference_replies(reference, found, journal, split, job.progress)
    return pipeline.examine(reference, cand, found, replies, job.progress)


def _judge(job: Job, inputs: QualityInputs, split: str) -> QualityReport:
    return judge(inputs, split=split, margins=job.margins, special=job.model.tokenizer.special_tokens, seed=job.seed)


def _arm(job: Job, trial: Trial) -> Arm:
    assert trial.artifact is not None, "a trial without an artifact is never measured"
    return Arm(trial.name, Spec(trial.artifact, trial.at, job.device, job.dtype))


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


def _fingerprint(trial: Trial) -> str:
    assert trial.artifact is not None
    return trial.artifact.sha256


def _identity(job: Job) -> dict[str, str]:
    """What makes two runs the same run."""
    return {
        "model": job.model.sha256,
        "recipes": repr(job.recipes),
        "budget": repr(job.budget),
        "candidates": repr(job.adopted),
        "train": "none" if job.train is None else job.train.sha256,
        "tune": job.tune.sha256,
        "test": job.test.sha256,
        "outside": " ".join(found.sha256 for found in job.outside.values()),
        "margins": repr(job.margins),
        "seed": str(job.seed),
        "device": job.device,
        "dtype": job.dtype,
        "meter": "none" if job.tools.info is None else job.tools.info.name,
        "cores": str(cores()),
    }
