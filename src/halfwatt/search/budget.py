"""What a search may cost, and when another trial is worth it."""

from __future__ import annotations

import re

from halfwatt.core.errors import BadInput
from halfwatt.core.settings import Budget
from halfwatt.search.trial_store import TrialStore

YEAR_H = 24 * 365
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "J": 1.0, "kJ": 1e3, "MJ": 1e6}


def parse_budget(text: str) -> Budget:
    """``10m``, ``2h``, ``90s``, ``500kJ``, ``20`` trials. Raises BadInput where it is none of these."""
    parts = re.fullmatch(r"(\d+(?:\.\d+)?) ?(s|m|h|J|kJ|MJ|trials)?", text.strip())
    amount, unit = (float(parts[1]), parts[2] or "trials") if parts else (0.0, "")
    if not amount or (unit == "trials" and amount % 1):
        raise BadInput("--budget is a time, joules or a number of trials", got=text, hint="type --budget 10m")
    if unit == "trials":
        return Budget(trials=int(amount))
    scaled = amount * _UNITS[unit]
    return Budget(joules=scaled) if unit.endswith("J") else Budget(seconds=scaled)


def is_spent(budget: Budget, store: TrialStore) -> bool:
    """Is there nothing left?"""
    used = ((store.seconds(), budget.seconds), (store.joules(), budget.joules), (len(store.finished()), budget.trials))
    return any(limit is not None and have >= limit for have, limit in used)


def repays(trial_s: float, left_s: float, replies_per_hour: float) -> bool:
    """Could a trial of ``trial_s`` CPU-seconds be repaid within a year, if it saved all that a reply still takes?

    >>> repays(trial_s=200.0, left_s=0.005, replies_per_hour=100), repays(200.0, 0.005, 4)
    (True, False)
    """
    return trial_s < left_s * replies_per_hour * YEAR_H
