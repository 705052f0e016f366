"""The search beyond a fixed list: ask for a recipe, assess it, tell what it came to, until the budget is spent."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from optuna.trial import FixedTrial, FrozenTrial, Trial

from halfwatt.compress.recipe import Recipe
from halfwatt.core.errors import BadInput
from halfwatt.core.settings import Budget
from halfwatt.search.trial_store import RECIPE, TrialOutcome, TrialStore

REPEATS = 30  # proposals of what was tried before, one after the other: then nothing new is to be expected
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "J": 1.0, "kJ": 1e3, "MJ": 1e6}

YEAR_H = 24 * 365
Propose = Callable[[Trial | FixedTrial], Recipe]


def parse_budget(text: str) -> Budget:
    """``10m``, ``2h``, ``90s``, ``500kJ``, ``20`` trials.

    Raises:
        BadInput: none of these.
    """
    parts = re.fullmatch(r"(\d+(?:\.\d+)?) ?(s|m|h|J|kJ|MJ|trials)?", text.strip())
    amount = float(parts[1]) if parts else 0.0
    if parts is None or not amount or (parts[2] in (None, "trials") and amount % 1):
        raise BadInput("--budget is a time, joules or a number of trials", got=text, hint="type --budget 10m")
    if parts[2] in (None, "trials"):
        return Budget(trials=int(amount))
    scaled = amount * _UNITS[parts[2]]
    return Budget(joules=scaled) if parts[2].endswith("J") else Budget(seconds=scaled)


def is_spent(budget: Budget, study: TrialStore) -> bool:
    """Is there nothing left?"""
    used = ((study.seconds(), budget.seconds), (study.joules(), budget.joules), (len(study.done()), budget.trials))
    return any(limit is not None and have >= limit for have, limit in used)


def repays(trial_s: float, left_s: float, replies_per_hour: float) -> bool:
    """Could a trial of ``trial_s`` CPU-seconds be repaid within a year, if it saved all that a reply still takes?

    >>> repays(trial_s=200.0, left_s=0.005, replies_per_hour=100), repays(200.0, 0.005, 4)
    (True, False)
    """
    return trial_s < left_s * replies_per_hour * YEAR_H


def explore(
    study: TrialStore,
    propose: Propose,
    assess: Callable[[Recipe], TrialOutcome],
    budget: Budget,
    joules: Callable[[], float | None] = lambda: None,
    go_on: Callable[[], bool] = lambda: True,
) -> list[Recipe]:
    """Try recipes until the budget is spent or nothing new comes; all that were finished, earlier sittings' too.

    Args:
        propose: a recipe from the decisions of a trial.
        assess: what a recipe comes to. A fault in it fails the trial and ends the search.
        joules: a cumulative counter; None where none measures.
        go_on: asked before every trial; False ends the search.
    """
    repeats = 0
    while not is_spent(budget, study) and repeats < REPEATS and go_on():
        with study.trial() as trial:
            recipe, before = propose(trial), joules()
            known = study.told(recipe.name)
            repeats = 0 if known is None else repeats + 1
            trial.set_user_attr(RECIPE, recipe.name)
            found = assess(recipe) if known is None else known
            after = joules()
            study.tell(trial, found, None if before is None or after is None else after - before)
    return finished(study, propose)


def finished(study: TrialStore, propose: Propose) -> list[Recipe]:
    """All recipes that were tried, in every sitting and by every worker, each once."""
    return [propose(again(trial)) for trial in _distinct(study)]


def again(trial: FrozenTrial) -> FixedTrial:
    """Something that decides as it was decided then."""
    fixed = FixedTrial(trial.params)
    for name, value in trial.user_attrs.items():
        fixed.set_user_attr(name, value)
    return fixed


def _distinct(study: TrialStore) -> Sequence[FrozenTrial]:
    """A trial of every recipe."""
    return list({trial.user_attrs[RECIPE]: trial for trial in study.done()}.values())
