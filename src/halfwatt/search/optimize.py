"""From the original to the fewest joules that pass the gate.

    B0  the original as commonly run (transformers, stored dtype, its own threads)
    B1  the original in the best runtime, at its best operating point; of a GGUF file the better of two forms
    then a list of recipes, and with a budget what Optuna proposes until it is spent (exploration.py), students that are
    taught within it among them (successive_halving.py): each measured and judged on the tune split (candidate.py)
    the winner alone meets B0 and B1 in one interleaved run and is judged on the sealed test split

When nothing is proven better, the original is delivered in its best runtime form. All pass through the same stages
(stages.py, judgement.py), which are kept: a run that was killed goes on with the next one and ends with the same
verdicts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from halfwatt.compress.base import Stage
from halfwatt.compress.recipe import Recipe
from halfwatt.core.errors import BadInput
from halfwatt.core.estimate import Estimate
from halfwatt.evaluate import energy_analysis
from halfwatt.evaluate.claim import make_claim
from halfwatt.evaluate.energy_protocol import Run
from halfwatt.evaluate.records import Claim, Measurement, Mixed, Outside, QualityInputs, QualityReport
from halfwatt.evaluate.requests import Workload
from halfwatt.formats.artifact import home_of
from halfwatt.formats.gguf_given import is_gguf
from halfwatt.meters.cost import Cost
from halfwatt.runtimes.base import OperatingPoint
from halfwatt.search.build import AS_GIVEN
from halfwatt.search.candidate import CandidateResult, Rivals, order_of, try_candidate
from halfwatt.search.cascade import Kinds, judge_both, try_cascades
from halfwatt.search.exploration import BEST_SO_FAR, agreed_plan, search_recipes
from halfwatt.search.job import Job
from halfwatt.search.judgement import Judgement, JudgeOrder, dialogues_to_judge, judge, judge_named
from halfwatt.search.lab import Contender, Lab
from halfwatt.search.search_space import require_distinct
from halfwatt.search.stage_store import StageStore
from halfwatt.search.stages import AS_COMMONLY_RUN, MeasureOrder, TuneOrder, build, measure, saving_of, tune
from halfwatt.search.student_plan import TeachingPlan
from halfwatt.search.teaching import teaching_plan
from halfwatt.search.trial import Trial


@dataclass(frozen=True, slots=True)
class Selection:
    """What the tune split chose. champion: what meets the baselines in the final run, a candidate or B1 itself."""

    b0: Trial | None  # None: the original can only be run
    b1: Trial
    candidates: tuple[CandidateResult, ...]
    champion: Trial


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a search came to, before it is written up."""

    selection: Selection  # with the baselines' energy from the final run
    final: Run
    measured: tuple[Measurement, ...]  # B0 where there is one, B1, winner
    quality: QualityReport
    inputs: QualityInputs
    claim: Claim
    delivered: Trial
    recipe: Recipe  # of what is delivered
    test: Workload
    notes: tuple[str, ...]
    traffic: Workload  # of the final run: of a cascade mixed, else the test split
    outside: tuple[Outside, ...] = ()
    mixed: Mixed | None = None  # of a cascade
    other: QualityInputs | None = None  # of a cascade, on the other kind of dialogue
    cost: Cost = field(default_factory=Cost)  # all of it but the trainings
    plan: TeachingPlan | None = None  # None = nobody was to be taught


def optimize(job: Job) -> Outcome:
    """Choose on the tune split, prove on the sealed one. Raises BadInput where the output folder holds another run,
    MeterError and TaintedRun where nothing could be measured."""
    require_distinct([step.folder for step in job.adopted])
    if job.other is not None and job.model.tokenizer.opens_thinking:
        raise BadInput(
            "no student stands in front of an original that thinks before it answers", hint="leave --cascade out"
        )
    store = StageStore(job.out / "stages", job.identity(), job.tools.primary)
    lab = Lab.of(job, store, job.tune, "tune")
    with job.turn():
        judge_named(lab)  # now: it may be no model, and is asked hours later
        if job.model.run_only:
            lab.say(
                f"{home_of(job.model.source).name} can only be run: no step opens its network, students learn from its "
                "answers"
            )
        b0, b1 = None if job.model.run_only else baseline(lab, "B0"), best_form(lab)
    reference, budget = Contender.of(b1), job.settings.search.budget
    plan = None if budget is None else agreed_plan(job, teaching_plan(lab, budget))
    job = replace(job, recipes=(*job.recipes, *search_recipes(lab, reference, plan)))
    with job.turn():
        candidates = tuple(try_candidate(lab, recipe, Rivals(reference)) for recipe in job.recipes)
        contenders = candidates
        if job.other is not None:  # what answers the user's own kind alone is none for this traffic
            kinds = Kinds.of(job, store, job.other, lab)
            contenders = tuple(try_cascades(kinds, reference, candidates))
            candidates += contenders
        selection = Selection(b0, b1, candidates, best([c.trial for c in contenders]) or b1)
        form = () if b1.reason is None else (f"B1 is {b1.reason}",)
        outcome = _prove(job, store, selection, (*form, *lab.workload.notes))
        (job.out / BEST_SO_FAR).unlink(missing_ok=True)
        return replace(outcome, outside=lost_outside(job, store, selection), cost=store.cost.total(), plan=plan)


def best_form(lab: Lab) -> Trial:
    """B1: the original in the best runtime. Of a GGUF file its 16-bit form or the file as given, whichever takes less;
    both say the same."""
    if lab.job.model.run_only:
        return replace(baseline(lab, "B1", AS_GIVEN), reason=f"the file as given: {lab.job.model.run_only}")
    exported = baseline(lab, "B1")
    if not is_gguf(lab.job.model):
        return exported
    given = baseline(lab, "B1", AS_GIVEN)
    contenders = (Contender.of(exported), replace(Contender.of(given), name=AS_GIVEN))
    brief = replace(lab, workload=lab.workload.brief())  # both say the same
    run = brief.run(measure, MeasureOrder(contenders, lab.job.settings.protocol.paired))
    saving = saving_of("B1", AS_GIVEN, run)
    better, other = (
        ("the file as given", "its 16-bit form") if saving.mean > 1 else ("its 16-bit form", "the file as given")
    )
    reason = f"{better}: {other} takes {max(saving.mean, 1 / saving.mean):.2f}x as much a reply"
    lab.say(f"B1 is {reason}")
    return replace(given if saving.mean > 1 else exported, reason=reason)


def baseline(lab: Lab, name: str, form: str = "gguf") -> Trial:
    """B0 or B1: the original, built and served at its best operating point; B0 as commonly run. Raises BadInput where
    it cannot be exported."""
    commonly, order, settings = name == "B0", order_of(lab, Recipe(name)), lab.job.settings
    built = lab.run(build, replace(order, format=AS_COMMONLY_RUN if commonly else form))
    if built.artifact is None:
        raise BadInput(built.fault or f"{name} could not be built")
    contender = Contender(name, built.artifact, OperatingPoint(reuse_prefix=not commonly))
    tuning = lab.run(tune, TuneOrder(contender, settings.protocol.tune, settings.search.users, fixed=commonly))
    ways = () if commonly else tuning.ways
    return Trial(name, (), "done", None, built.artifact, tuning.best, None, None, tried=ways)


def best(trials: Sequence[Trial]) -> Trial | None:
    """The candidate with the fewest joules per reply among those that the tune split lets through.

    Proven ones before undecided ones; only savings over B1 whose interval excludes 1.
    """
    rank = {"PASS": 0, "INCONCLUSIVE": 1}
    able = (
        (rank[t.verdict], -_saving(t).mean, t)
        for t in trials
        if t.status == "done" and t.verdict in rank and _saving(t).lo > 1
    )
    return min(able, key=lambda item: item[:2], default=(0, 0.0, None))[2]


def _saving(trial: Trial) -> Estimate:
    ratio = trial.energy_ratio_vs_B1 or trial.cpu_s_ratio_vs_B1
    assert ratio is not None, "a finished trial was measured"
    return ratio


def _prove(job: Job, store: StageStore, selection: Selection, notes: tuple[str, ...]) -> Outcome:
    """The champion beside both baselines on the sealed split: one interleaved run, and the gate."""
    champion, settings = Contender.of(selection.champion), job.settings
    baselines = [trial for trial in (selection.b0, selection.b1) if trial is not None]
    arms = (*map(Contender.of, baselines), replace(champion, name="winner"))
    settings.progress(
        f"the final run: {', '.join(b.name for b in baselines)} and {champion.name} on the sealed test split"
    )
    lab = Lab.of(job, store, job.test.open(champion.artifact.sha256), "test")
    b1 = Contender.of(selection.b1)
    kinds = None
    if job.other is not None and selection.champion.mixed is not None:
        kinds = Kinds.of(job, store, job.other, lab, champion.artifact.sha256)
    where = lab if kinds is None else kinds.mixed
    run = where.run(measure, MeasureOrder(arms, settings.protocol.final, context=len(baselines) - 1))
    judgement, other, mixed = _judge_sealed(lab, kinds, b1, selection.champion)
    claim = make_claim(run.windows, run.meter, judgement.report, champion.name, mixed)
    measured = {arm.name: energy_analysis.measurement(arm.name, run.windows, run.meter) for arm in arms}
    delivered = selection.champion if claim.verdict == "PASS" else selection.b1
    b0 = None if selection.b0 is None else replace(selection.b0, energy=measured["B0"])
    return Outcome(
        replace(selection, b0=b0, b1=replace(selection.b1, energy=measured["B1"])),
        final=run,
        measured=tuple(measured.values()),
        quality=judgement.report,
        inputs=judgement.inputs,
        claim=claim,
        delivered=delivered,
        recipe=_recipe_of(delivered, job),
        test=lab.workload,
        mixed=mixed,
        other=None if other is None else other.inputs,
        notes=tuple(dict.fromkeys(notes + where.workload.notes)),  # both splits tell what their file lost
        traffic=where.workload,
    )


def _judge_sealed(
    lab: Lab, kinds: Kinds | None, b1: Contender, champion: Trial
) -> tuple[Judgement, Judgement | None, Mixed | None]:
    """The gate on the sealed split, of a cascade on the other kind of dialogue as well."""
    contender, margins = Contender.of(champion), lab.job.settings.margins
    answered, own = _sealed_part(lab, champion.quality)
    if kinds is None or champion.mixed is None:
        return own.run(judge, JudgeOrder(b1, contender, margins, answered=answered)), None, None
    others, other = _sealed_part(kinds.other, champion.mixed.quality)
    return judge_both(replace(kinds, own=own, other=other), b1, contender, (answered, others))


def _sealed_part(lab: Lab, tuned: QualityReport | None) -> tuple[int, Lab]:
    """Dialogues that the reference answers too, and all that are asked."""
    answered, judged = dialogues_to_judge(tuned, len(lab.workload.dialogues))
    return answered, replace(lab.part(0, judged), split="test")


def lost_outside(job: Job, store: StageStore, selection: Selection) -> tuple[Outside, ...]:
    """What the champion lost on other kinds of dialogue, where its recipe cut or trained weights by the user's own."""
    if selection.champion.mixed is not None:  # it was judged on them
        return ()
    champion, reference = Contender.of(selection.champion), Contender.of(selection.b1)
    rounded = all(step.stage >= Stage.NUMERICS for step in _recipe_of(selection.champion, job).steps)
    if rounded and not champion.artifact.spent:
        return ()

    def loss(kind: str) -> Outside | None:
        job.settings.progress(f"what {champion.name} lost on other dialogues: {kind}")
        try:
            lab = Lab.of(job, store, job.outside[kind], f"outside: {kind}")
            judgement = lab.run(judge, JudgeOrder(reference, champion, job.settings.margins, if_likely=True))
        except BadInput as error:  # none of them fits the model, say: the run's own verdict does not hang on it
            job.settings.progress(f"left out: {error}")
            return None
        return Outside(kind, judgement.report, judgement.inputs)

    return tuple(filter(None, map(loss, job.outside)))


def _recipe_of(trial: Trial, job: Job) -> Recipe:
    return next((recipe for recipe in job.recipes if recipe.name == trial.name), Recipe(trial.name))
