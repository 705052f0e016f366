"""How long students can be taught within a search's time, and which of them are taught on."""

from __future__ import annotations

from dataclasses import replace

from halfwatt.compress.base import TrainingBudget
from halfwatt.compress.distil import Distil
from halfwatt.compress.training.batches import encode_rows
from halfwatt.core.settings import Budget
from halfwatt.search.job import Job
from halfwatt.search.lab import Lab
from halfwatt.search.search_space import ROUND, STUDENT
from halfwatt.search.successive_halving import StudentRound, Teaching, plan_teaching, promote
from halfwatt.search.trial_store import TrialStore, lasted_s, outcome_of

_SAMPLE, _TOKENS = 256, 2 * 4096  # dialogues and tokens by which the pace is measured
_STUDENT_SHARE = 0.45  # of the original's time for a token: 1/4 to learn, the rest its part of the original's answers


def teaching_of(lab: Lab, budget: Budget) -> Teaching | None:
    """What the budget's time and the training dialogues allow; None = no students."""
    job = lab.job
    if job.train is None or budget.seconds is None or job.model.run_only:
        return None
    with job.turn():
        s_per_token = lab.store.once("pace", float, lambda: student_pace_s(job))
    teaching = plan_teaching(budget.seconds, s_per_token, training_tokens(job))
    if teaching is None:
        lab.say(f"no student could learn enough within {budget.seconds:.0f} s here, of these dialogues")
    return teaching


def student_pace_s(job: Job) -> float:
    """Seconds a token in which a student can be taught here, measured by how fast the original learns."""
    context = job.step_context()
    brief = replace(context, dialogues=context.some(_SAMPLE), cache=None, budget=TrainingBudget(tokens=_TOKENS))
    cost = Distil(kind="labels").apply(job.model, brief).spent[-1]
    return _STUDENT_SHARE * cost.wall_s / cost.tokens


def training_tokens(job: Job) -> int:
    """About how many tokens there are to learn from."""
    context = job.step_context()
    sample = context.some(_SAMPLE)
    tokens = sum(len(row.ids) for row in encode_rows(sample, job.model.tokenizer, Distil().longest))
    return round(tokens / len(sample) * len(context.dialogues))


def enqueue_next_rounds(store: TrialStore, teaching: Teaching, budget: Budget) -> None:
    """Ask for the next rounds of the students that are worth it."""
    if budget.seconds is None:
        return
    trials = [trial for trial in store.completed() if trial.params.get("base") == STUDENT]
    students = [StudentRound(t.params, t.user_attrs.get(ROUND, 0), outcome_of(t), lasted_s(t)) for t in trials]
    least_cost = best.value if (best := store.best()) else None
    for student in promote(students, teaching.rounds, least_cost, budget.seconds - store.seconds()):
        store.enqueue(dict(student.decisions), {ROUND: student.round + 1})
