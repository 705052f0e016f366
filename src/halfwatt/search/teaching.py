"""How long students can be taught within a search's time, and which of them are taught on."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

import torch
from optuna.trial import Trial
from torch import Tensor

from halfwatt.compress.base import StepContext, TrainingBudget, problems_of
from halfwatt.compress.distil import Distil
from halfwatt.compress.fresh_student import Student
from halfwatt.compress.prune import Prune
from halfwatt.compress.training.batches import Predictor, encode_rows, in_batches
from halfwatt.compress.vocabulary_trim import Trim
from halfwatt.core.settings import Budget
from halfwatt.models.chat_model import ChatModel
from halfwatt.search.build import asking
from halfwatt.search.job import Job
from halfwatt.search.lab import Lab
from halfwatt.search.search_space import ASKED, BASE, FRESH, ROUND, STUDENT
from halfwatt.search.student_plan import SIZES, Curriculum, Pace, Paces, TeachingPlan, parameters
from halfwatt.search.successive_halving import RATE, StudentRound, promote
from halfwatt.search.trial_store import RECIPE, TrialStore, outcome_of

_SAMPLE, _TOKENS = 256, 2 * 4096  # dialogues and tokens by which a pace is measured
_TRIED = SIZES[2], SIZES[5]  # by two of which the others' are told
_SLACK = 1 / 6  # of the budget, which a last lesson may take longer: it is what all the others were for


def teaching_plan(lab: Lab, budget: Budget) -> TeachingPlan | None:
    """What the budget's time and the training dialogues allow, told to the user; None = the budget is no time."""
    job, seconds = lab.job, budget.seconds
    if job.train is None or seconds is None:
        return None
    with job.turn():
        plan = lab.store.once("teaching-plan", TeachingPlan, lambda: TeachingPlan.of(seconds, measure_paces(job)))
    for line in plan.lines:
        lab.say(line)
    return plan


def measure_paces(job: Job) -> Paces:
    """Two fresh students learn a little, and the original reads a little."""
    context = replace(job.step_context(), asking=asking(job.model, job.settings.access.device))
    sample = context.some(_SAMPLE)
    model = job.model
    if not Trim().problems(model):
        model = Trim().apply(model, context)
    tokens = sum(len(row.ids) for row in encode_rows(sample, model.tokenizer, Distil().longest))
    brief = replace(context, dialogues=sample, cache=None, budget=TrainingBudget(tokens=_TOKENS))
    small, large = (_learning_s(model, student, brief) for student in _TRIED)
    blocks, block, other = _parts(model)
    return Paces(
        tokens=round(tokens / len(sample) * len(context.dialogues)),
        vocabulary=int(model.network.config.vocab_size),
        fresh=Pace.through(small, large),
        asking_s=_reading_s(job.model, brief),
        blocks=blocks,
        block_parameters=block,
        other_parameters=other,
    )


def _parts(model: ChatModel) -> tuple[int, int, int]:
    """Blocks that a student may keep some of, parameters of the largest, and of all else; no blocks = it cannot."""
    if problems_of(Prune(drop=1, chosen="middle"), model):
        return 0, 0, 0
    sizes = [sum(p.numel() for p in block.parameters()) for block in model.architecture.blocks(model.network)]
    return len(sizes), max(sizes), sum(p.numel() for p in model.network.parameters()) - sum(sizes)


def _learning_s(model: ChatModel, student: Student, brief: StepContext) -> tuple[int, float]:
    """Parameters, and seconds a token."""
    learner = student.apply(model, brief)
    cost = Distil(kind="labels", epochs=4).apply(learner, brief).spent[-1]
    return parameters(student, model.network.config.vocab_size), cost.wall_s / cost.tokens


@torch.no_grad()
def _reading_s(model: ChatModel, brief: StepContext) -> float:
    """Seconds a token in which the original reads; what only a runtime computes is asked there."""
    batch = in_batches(brief.some(8), model.tokenizer, Distil().longest)[0].to(torch.device(brief.device))
    with ExitStack() as stack:
        reader: Callable[[Tensor, Tensor], Tensor]
        if brief.asking is not None:
            reader = stack.enter_context(brief.asking(model.tokenizer))
        else:
            reader = Predictor(copy.deepcopy(model.network).to(brief.device)).eval()  # type: ignore[arg-type]
        reader(batch.ids, batch.reply)  # the first pass also warms up
        start_s = time.monotonic()
        reader(batch.ids, batch.reply)
        return (time.monotonic() - start_s) / batch.ids.numel()


def enqueue_next_rounds(
    store: TrialStore, curriculum: Curriculum, budget: Budget, knows_more: Callable[[str], bool]
) -> None:
    """Ask for the next rounds of the students that are worth it.

    knows_more: does the original find people's replies likelier than the student of a recipe does? Then the student
    hears the original in its next round too.
    """
    if budget.seconds is None:
        return
    least_cost, left_s = best.value if (best := store.best()) else None, budget.seconds - store.seconds()
    if (cut := curriculum.cut) is not None:
        for student in promote(_rounds(store, STUDENT), cut.rounds, least_cost, left_s):
            store.enqueue(dict(student.decisions), {ROUND: student.round + 1})
    if (plan := curriculum.fresh) is not None:
        left_s += _SLACK * budget.seconds
        students = [replace(s, next_s=plan.lesson_s(s.round + 1)) for s in _rounds(store, FRESH)]
        for student in promote(students, plan.rounds, least_cost, left_s, least=int(plan.students == 1)):
            asked = {ASKED: curriculum.asked} if student.recipe and knows_more(student.recipe) else {}
            store.enqueue(dict(student.decisions), {ROUND: student.round + 1} | asked)


def lesson_s(plan: TeachingPlan, trial: Trial) -> float:
    """Seconds that a plan gives the last lesson of what a trial decided; 0 = nobody is taught."""
    base, number = trial.params.get(BASE), int(trial.user_attrs.get(ROUND, 0))
    if base == FRESH and plan.curriculum.fresh is not None:
        return plan.curriculum.fresh.lesson_s(number)
    if base == STUDENT and plan.curriculum.cut is not None:
        return plan.curriculum.cut.epochs * float(RATE**number) * plan.paces.tokens * plan.paces.cut_s
    return 0.0


def _rounds(store: TrialStore, base: str) -> list[StudentRound]:
    trials = [trial for trial in store.completed() if trial.params.get(BASE) == base]
    return [
        StudentRound(
            t.params, t.user_attrs.get(ROUND, 0), outcome_of(t), RATE * store.lasted_s(t), t.user_attrs[RECIPE]
        )
        for t in trials
    ]
