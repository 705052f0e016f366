"""The search beyond a fixed list: ask for a recipe, try it, say what it came to, until the budget is spent."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from os import getpid
from statistics import fmean

from optuna.trial import Trial

from halfwatt.compress.recipe import Recipe
from halfwatt.compress.search_ranges import Chooser
from halfwatt.core.files import write_atomic
from halfwatt.core.json_records import from_json, to_json
from halfwatt.core.settings import Budget
from halfwatt.search.budget import is_spent, repays
from halfwatt.search.candidate import CandidateResult, Rivals, stored_name, try_candidate
from halfwatt.search.job import Job
from halfwatt.search.lab import Contender, Lab
from halfwatt.search.search_space import Space
from halfwatt.search.side_by_side import teach_side_by_side
from halfwatt.search.student_plan import Curriculum, TeachingPlan
from halfwatt.search.teaching import enqueue_next_rounds, lesson_s
from halfwatt.search.trial_store import RECIPE, TrialOutcome, TrialStore

BEST_SO_FAR = "best-so-far.json"  # of a search that goes on or was cut off: a trial that the tune split let through
REPEATS = 30  # proposals of what was tried before, one after the other: then nothing new is to be expected

Propose = Callable[[Chooser], Recipe]


def explore(
    store: TrialStore,
    propose: Propose,
    assess: Callable[[Recipe], TrialOutcome],
    budget: Budget,
    go_on: Callable[[], bool] = lambda: True,
    fits: Callable[[Trial], bool] = lambda _: True,
) -> list[Recipe]:
    """Try recipes until the budget is spent or nothing new comes; all that were finished, earlier sittings' too. What
    an earlier sitting began within the budget is ended whatever it takes, as it would have been then.

    propose: a recipe from the decisions of a trial; assess: what it comes to. A fault there fails the trial and ends
    the search, as ``go_on`` does before a trial. fits: is there time for what the sampler proposed? What the search
    itself asked for is tried in any case.
    """
    repeats = 0
    while repeats < REPEATS and (store.was_interrupted() if is_spent(budget, store) else go_on()):
        with store.trial() as trial:
            recipe = propose(trial)
            known = store.outcome_of_recipe(recipe.name)
            if known is None and not (store.was_asked_for(trial) or fits(trial)):
                repeats += 1
                store.decline(trial)
                continue
            repeats = 0 if known is None else repeats + 1
            trial.set_user_attr(RECIPE, recipe.name)
            store.finish(trial, assess(recipe) if known is None else known)
    return finished_recipes(store, propose)


def finished_recipes(store: TrialStore, propose: Propose) -> list[Recipe]:
    """All recipes that were tried, in every sitting and by every worker, each once, those that could not be made too; a
    trial decides as it did then."""
    distinct = {trial.user_attrs[RECIPE]: trial for trial in store.finished()}
    return list(map(propose, distinct.values()))


class Assessor:
    """Tries the recipes of one search, each against the best that passed before it, in earlier sittings too."""

    def __init__(self, lab: Lab, reference: Contender) -> None:
        self._lab, self._reference = lab, reference
        self._passed: list[CandidateResult] = []
        self._cpu_s: list[float] = []

    @property
    def best(self) -> CandidateResult | None:
        """The one that passed and saves most."""
        return max(self._passed, key=lambda result: result.saving.mean if result.saving else 0.0, default=None)

    def remember(self, recipes: Sequence[Recipe]) -> None:
        """Take in what earlier sittings tried here."""
        results = [try_candidate(self._lab, recipe, Rivals(self._reference)) for recipe in recipes]
        self._passed += [result for result in results if result.passed]

    def assess(self, recipe: Recipe) -> TrialOutcome:
        """Try one, and write down the best so far."""
        job, cost, best = self._lab.job, self._lab.store.cost, self.best
        before_s = cost.total().cpu_s
        rivals = Rivals(self._reference, True, None if best is None else best.saving)
        with job.turn():
            result = try_candidate(self._lab, recipe, rivals)
        if result.passed:
            self._passed.append(result)
        if self.best is result:
            write_atomic(job.out / BEST_SO_FAR, to_json(result.trial).encode())
        self._cpu_s.append(cost.total().cpu_s - before_s)
        return result.outcome

    def original_knows_more(self, recipe: str) -> bool:
        """Does the original find people's replies likelier than this candidate, tried here, does?"""
        named = Recipe(recipe)
        if not self._lab.store.has(stored_name(named)):  # another worker's
            return False
        return try_candidate(self._lab, named, Rivals(self._reference)).original_is_likelier

    def repays(self) -> bool:
        """Could another trial be repaid by the user's traffic? Where that is not known, it may be."""
        rate, best = self._lab.job.settings.search.replies_per_hour, self.best
        if rate is None or best is None or best.trial.energy is None or not self._cpu_s:
            return True
        if repays(fmean(self._cpu_s), best.trial.energy.cpu_s_per_reply.mean, rate):
            return True
        self._lab.say(f"another trial would not repay itself within a year at {rate:g} replies an hour")
        return False


def search_recipes(lab: Lab, reference: Contender, plan: TeachingPlan | None = None) -> list[Recipe]:
    """What Optuna proposed and was tried here, and the best of what other workers tried; none without a budget.

    plan: for students
    """
    job, budget = lab.job, lab.job.settings.search.budget
    if budget is None:
        return []
    assessor, curriculum = Assessor(lab, reference), Curriculum() if plan is None else plan.curriculum
    space = Space.of(job.model, job.adopted, job.train is not None, curriculum)
    if space.empty:
        return []

    def tried_here(recipe: Recipe) -> bool:
        return lab.store.has(stored_name(recipe))

    with closing(_open_trials(job)) as trials:
        for decisions in space.first():
            trials.enqueue(decisions)
        assessor.remember([recipe for recipe in finished_recipes(trials, space.recipe) if tried_here(recipe)])

        def go_on() -> bool:
            enqueue_next_rounds(trials, curriculum, budget, assessor.original_knows_more)
            teach_side_by_side(lab, trials, space.recipe)
            return assessor.repays()

        def fits(trial: Trial) -> bool:
            return plan is None or lesson_s(plan, trial) <= plan.seconds - trials.seconds()

        recipes = explore(trials, space.recipe, assessor.assess, budget, go_on, fits)
        best = trials.best()
    winner = None if best is None else best.user_attrs[RECIPE]
    return [recipe for recipe in recipes if recipe.name == winner or tried_here(recipe)]


def agreed_plan(job: Job, plan: TeachingPlan | None) -> TeachingPlan | None:
    """Workers that share their trials teach by one curriculum, that of the first who has one: by its time and paces."""
    if plan is None or job.settings.search.storage is None:
        return plan
    with closing(_open_trials(job)) as trials:
        agreed = from_json(trials.agreed("curriculum", to_json(plan.curriculum)).encode(), Curriculum)
    if agreed != plan.curriculum:
        job.settings.progress("students are taught by the plan of the worker that began this search")
    return replace(plan, curriculum=agreed)


def _open_trials(job: Job) -> TrialStore:
    """The trials of this search, whatever its budget; workers that share them need a seed each."""
    search = job.settings.search
    same = replace(job, settings=replace(job.settings, search=replace(search, budget=None)))
    name = hashlib.sha256(repr(same.identity()).encode()).hexdigest()[:12]
    where, seed = search.storage or job.out / "stages" / "search.journal", job.settings.seed
    counter = job.tools.primary
    joules = (lambda: None) if counter is None else (lambda: counter.read().joules)
    return TrialStore(where, name, getpid() if search.storage else seed, joules)
