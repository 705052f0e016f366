"""The ladder: from the original to the fewest joules that pass the gate.

    B0  the original as commonly run (transformers, stored dtype, its own threads)
    B1  the original in the best runtime, at its best operating point
    then int8, int4 with an int8 head, int4, or the recipe that was given, or with a budget what Optuna proposes until
    it is spent (explore.py), students that are taught within it among them (halving.py): each measured and judged on
    the tune split (rungs.py)
    the winner alone meets B0 and B1 in one interleaved run and is judged on the sealed test split

The original is always a candidate: when nothing is proven better it is delivered in its best runtime form. Every stage
is written down when it is finished, so a run that was killed goes on with the next one and ends with the same verdicts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field, replace
from functools import partial
from os import getpid
from statistics import fmean

from halfwatt.compress.base import Stage
from halfwatt.compress.recipe import Recipe
from halfwatt.core.estimate import Estimate
from halfwatt.core.files import turn, write_atomic
from halfwatt.core.json_records import to_json
from halfwatt.core.machine import cores
from halfwatt.core.settings import Budget
from halfwatt.evaluate import energy_analysis, requests
from halfwatt.evaluate.claim import make_claim
from halfwatt.evaluate.energy_protocol import Run, measure
from halfwatt.evaluate.records import Claim, Measurement, Outside, QualityInputs, QualityReport
from halfwatt.evaluate.requests import ChatFormat, Workload
from halfwatt.formats.artifact import Artifact
from halfwatt.meters.cost import Cost
from halfwatt.runtimes.base import OperatingPoint
from halfwatt.runtimes.transformers_eager import TransformersEager
from halfwatt.search import build
from halfwatt.search.budget import explore, finished, repays
from halfwatt.search.candidate import (
    CandidateResult,
    Evaluator,
    Incumbent,
    arm,
    evaluate_candidate,
    examined,
    pace,
    tokens_of,
    tuned,
    verdict,
)
from halfwatt.search.job import Job
from halfwatt.search.search_space import ROUND, STUDENT, Space
from halfwatt.search.stages import StageStore
from halfwatt.search.successive_halving import StudentRound, Teaching, planned, promoted
from halfwatt.search.trial import Trial
from halfwatt.search.trial_store import RECIPE, TrialOutcome, TrialStore, lasted_s, outcome_of

BEST = "best-so-far.json"  # of a search that goes on or was cut off: a trial that the tune split let through


@dataclass(frozen=True, slots=True)
class TuneOutcome:
    """What the tune split chose."""

    b0: Trial
    b1: Trial
    rungs: tuple[CandidateResult, ...]
    champion: Trial  # what meets the baselines in the final run: the best candidate, or B1 itself


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a search found, before it is written up."""

    climb: TuneOutcome  # with the baselines' energy from the final run
    final: Run
    measured: tuple[Measurement, ...]  # B0, B1, winner
    quality: QualityReport
    inputs: QualityInputs
    claim: Claim
    delivered: Trial
    recipe: Recipe  # of what is delivered
    test: Workload
    notes: tuple[str, ...]
    outside: tuple[Outside, ...] = ()
    took: Cost = field(default_factory=Cost)  # all of it but the trainings


def optimize(job: Job) -> Outcome:
    """Climb the ladder.

    Raises:
        BadInput: the output folder holds another run.
        MeterError, TaintedRun: nothing could be measured.
    """
    journal = StageStore(job.out / "stages", _identity(job), job.tools.primary)
    speech = ChatFormat.by(job.model)
    tune = requests.make_workload(job.tune, speech, job.settings.requests, job.settings.seed)
    with _turn(job):
        b0, b1 = _baselines(job, journal, tune)
    arena = Evaluator(job, journal, b1, tune)
    job = replace(job, recipes=(*job.recipes, *_explored(arena)))
    with _turn(job):
        rungs = tuple(evaluate_candidate(arena, recipe) for recipe in job.recipes)
        climb = TuneOutcome(b0, b1, rungs, best([rung.trial for rung in rungs]) or b1)
        job.settings.progress(f"the final run: B0, B1 and {climb.champion.name} on the sealed test split")
        sealed = job.test.open(_fingerprint(climb.champion))
        test = requests.make_workload(sealed, speech, job.settings.requests, job.settings.seed)
        outcome = _final(job, journal, climb, test, tune.notes + test.notes)
        (job.out / BEST).unlink(missing_ok=True)
        return replace(outcome, outside=outside(job, journal, climb, speech), took=journal.tally.total())


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


def _baselines(job: Job, journal: StageStore, tune: Workload) -> tuple[Trial, Trial]:
    job.settings.progress("B0: the original as commonly run")
    original = journal.once(
        "b0-artifact",
        Artifact,
        lambda: TransformersEager(job.settings.access.device, job.settings.access.dtype).export(
            job.model, job.out / "artifacts/b0"
        ),
    )
    b0 = _plain_trial("B0", original, OperatingPoint(reuse_prefix=False))
    job.settings.progress("B1: the original in the best runtime")
    exported = build.build(job.model, Recipe("B1"), tune.dialogues, job.out / "artifacts", job.settings.access.device)
    return b0, tuned(job, journal, "B1", _plain_trial("B1", exported, OperatingPoint()), tune)


def _plain_trial(name: str, artifact: Artifact, at: OperatingPoint) -> Trial:
    return Trial(name, (), "done", None, artifact, at, None, None)


def _explored(arena: Evaluator) -> list[Recipe]:
    """What Optuna proposed and was tried here, and the best of what other workers tried."""
    job, budget = arena.job, arena.job.settings.search.budget
    if budget is None:
        return []
    teaching = _teaching(arena, budget)
    space = Space.of(job.model, job.adopted, job.train is not None, teaching)
    passed: list[CandidateResult] = []  # here, in earlier sittings too
    took_s: list[float] = []

    def assess(recipe: Recipe) -> TrialOutcome:
        before, best = arena.journal.tally.total().cpu_s, _cheapest(passed)
        with _turn(job):
            came_to = evaluate_candidate(arena, recipe, Incumbent(None if best is None else best.saving))
        passed.extend(_passing([came_to]))
        if _cheapest(passed) is came_to:
            write_atomic(job.out / BEST, to_json(came_to.trial).encode())
        took_s.append(arena.journal.tally.total().cpu_s - before)
        return came_to.found

    def go_on() -> bool:
        rate, best = job.settings.search.replies_per_hour, _cheapest(passed)
        if rate is None or best is None or best.trial.energy is None or not took_s:
            return True
        if repays(fmean(took_s), best.trial.energy.cpu_s_per_reply.mean, rate):
            return True
        job.settings.progress(f"another trial would not repay itself within a year at {rate:g} replies an hour")
        return False

    name = hashlib.sha256(
        repr(
            _identity(replace(job, settings=replace(job.settings, search=replace(job.settings.search, budget=None))))
        ).encode()
    ).hexdigest()[:12]
    where, seed = (
        (job.out / "stages" / "search.journal", job.settings.seed)
        if job.settings.search.storage is None
        else (job.settings.search.storage, getpid())
    )
    with closing(TrialStore(where, name, seed)) as study:
        for decisions in space.first():
            study.first(decisions)
        here = [recipe for recipe in finished(study, space.recipe) if arena.journal.has(f"rung-{recipe.slug}")]
        passed.extend(_passing([evaluate_candidate(arena, recipe) for recipe in here]))
        counter = job.tools.primary
        joules = (lambda: None) if counter is None else (lambda: counter.read().joules)

        def ready() -> bool:
            _teach_on(study, teaching, budget)
            return go_on()

        tried = explore(study, space.recipe, assess, budget, joules, ready)
        best = study.best()
    chosen = None if best is None else best.user_attrs[RECIPE]
    return [recipe for recipe in tried if recipe.name == chosen or arena.journal.has(f"rung-{recipe.slug}")]


def _teaching(arena: Evaluator, budget: Budget) -> Teaching | None:
    """How long students can be taught within the budget's time; None = there are none."""
    job = arena.job
    if job.train is None or budget.seconds is None:
        return None
    with _turn(job):
        pace_s = arena.journal.once("pace", float, lambda: pace(job))
    teaching = planned(budget.seconds, pace_s, tokens_of(job))
    if teaching is None:
        job.settings.progress(f"no student could learn enough within {budget.seconds:.0f} s here, of these dialogues")
    return teaching


def _teach_on(study: TrialStore, teaching: Teaching | None, budget: Budget) -> None:
    """Ask for the next rounds of the students that are worth it."""
    if teaching is None or budget.seconds is None:
        return
    students = [
        StudentRound(t.params, t.user_attrs.get(ROUND, 0), outcome_of(t), lasted_s(t))
        for t in study.done()
        if t.params.get("base") == STUDENT
    ]
    best = study.best()
    bar = None if best is None else best.value
    for student in promoted(students, teaching.rounds, bar, budget.seconds - study.seconds()):
        study.first(dict(student.decisions), {ROUND: student.round + 1})


def _passing(found: Sequence[CandidateResult]) -> list[CandidateResult]:
    return [rung for rung in found if rung.saving is not None and rung.over <= 0]


def _cheapest(passed: Sequence[CandidateResult]) -> CandidateResult | None:
    """The one that saves most."""
    return max(passed, key=lambda rung: rung.saving.mean if rung.saving else 0.0, default=None)


# --- the final run -------------------------------------------------------------------------------------------------


def _final(job: Job, journal: StageStore, climb: TuneOutcome, test: Workload, notes: tuple[str, ...]) -> Outcome:
    arms = [arm(job, climb.b0), arm(job, climb.b1), replace(arm(job, climb.champion), name="winner")]
    plan = job.settings.protocol.final
    run = journal.once("final-run", Run, lambda: measure(arms, test, plan, job.tools, job.settings.progress))
    arena = Evaluator(job, journal, climb.b1, test)
    inputs = journal.once("final-quality", QualityInputs, lambda: examined(arena, climb.champion, "test"))
    report = verdict(job, inputs, "test")
    claim = make_claim(run, report, climb.champion.name)
    measured = tuple(energy_analysis.measurement(each.name, run.windows, run.meter) for each in arms)
    delivered = climb.champion if claim.verdict == "PASS" else climb.b1
    return Outcome(
        climb=replace(climb, b0=replace(climb.b0, energy=measured[0]), b1=replace(climb.b1, energy=measured[1])),
        final=run,
        measured=measured,
        quality=report,
        inputs=inputs,
        claim=claim,
        delivered=delivered,
        recipe=_recipe_of(delivered, job),
        test=test,
        notes=notes,
    )


def outside(job: Job, journal: StageStore, climb: TuneOutcome, speech: ChatFormat) -> tuple[Outside, ...]:
    """What the champion lost on other kinds of dialogue, where its recipe cut or trained weights by the user's own."""
    steps = _recipe_of(climb.champion, job).steps
    assert climb.champion.artifact is not None, "it was measured"
    if not climb.champion.artifact.spent and all(step.stage >= Stage.NUMERICS for step in steps):
        return ()

    def met(kind: str, number: int) -> Outside:
        job.settings.progress(f"what {climb.champion.name} lost on other dialogues: {kind}")
        elsewhere = Evaluator(
            job,
            journal,
            climb.b1,
            requests.make_workload(job.outside[kind], speech, job.settings.requests, job.settings.seed),
        )
        inputs = examined(elsewhere, climb.champion, f"outside-{number}")
        return Outside(kind, verdict(job, inputs, f"outside: {kind}"), inputs)

    stages = enumerate(job.outside)
    return tuple(journal.once(f"outside-{n}", Outside, partial(met, kind, n)) for n, kind in stages)


# --- small shared pieces -------------------------------------------------------------------------------------------


def _turn(job: Job) -> AbstractContextManager[None]:
    """A device is measured on by one process at a time; the processor also makes what is measured."""
    return turn(job.settings.access.device.replace(":", "-"), job.settings.progress)


def _recipe_of(trial: Trial, job: Job) -> Recipe:
    return next((recipe for recipe in job.recipes if recipe.name == trial.name), Recipe(trial.name))


def _fingerprint(trial: Trial) -> str:
    assert trial.artifact is not None
    return trial.artifact.sha256


def _identity(job: Job) -> dict[str, str]:
    """What makes two runs the same run."""
    return {
        "model": job.model.sha256,
        "recipes": repr(job.recipes),
        "budget": repr(job.settings.search.budget),
        "candidates": repr(job.adopted),
        "train": "none" if job.train is None else job.train.sha256,
        "tune": job.tune.sha256,
        "test": job.test.sha256,
        "outside": " ".join(found.sha256 for found in job.outside.values()),
        "margins": repr(job.settings.margins),
        "seed": str(job.settings.seed),
        "users": str(job.settings.search.users),
        "device": job.settings.access.device,
        "dtype": job.settings.access.dtype,
        "meter": "none" if job.tools.info is None else job.tools.info.name,
        "cores": str(cores()),
    }
