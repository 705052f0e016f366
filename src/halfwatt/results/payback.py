"""What a candidate's training cost, and after how many replies that is paid back. Pure.

    replies = cost of training / (B1's cost of a reply - the candidate's cost of a reply)

both in CPU-seconds, which are always measured, and in joules where one meter saw both. Where the run's joules are
modelled the training is modelled by the same formula: the quotient is then a ratio, all that a model may claim. What
was trained on a GPU and answers on a processor has neither: its joules stand alone, where measured. Only steps that
learn count as training. `ledger` adds what the whole search took: every candidate's training, building, measuring and
judging.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from halfwatt.core.estimate import Estimate
from halfwatt.core.statistics import difference, widened
from halfwatt.evaluate.records import Measurement
from halfwatt.meters.base import Kind, MeterInfo, Usage
from halfwatt.meters.cost import Cost
from halfwatt.meters.modelled import INFO, modelled_joules
from halfwatt.search.trial import Trial

_RATES = (100.0, 1000.0, 10_000.0)  # replies an hour, where the user states none


@dataclass(frozen=True, slots=True)
class Payback:
    """The price of one candidate's training. None: not measured, or no saving for certain."""

    trial: str
    tokens: int
    cpu_s: float | None  # None: a part of it ran on another device
    joules: float | None
    kind: Kind | None  # of the joules
    comparable: bool  # its joules with the replies': by one meter or one model
    replies_by_cpu_s: Estimate | None
    replies_by_joules: Estimate | None


@dataclass(frozen=True, slots=True)
class Due:
    """When it is repaid, at so many replies an hour."""

    replies_per_hour: float
    days: Estimate


@dataclass(frozen=True, slots=True)
class Ledger:
    """What it took to find a candidate, in CPU-seconds, against what it saves. None: not measured, or no saving."""

    about: str
    training_s: float | None  # of all candidates; None: a part of it ran on another device
    search_s: float
    joules: float | None  # of the search, where a meter saw it
    replies: Estimate | None  # until both are repaid, or the search alone where training ran elsewhere
    due: tuple[Due, ...]  # as days, at the user's replies an hour or at some

    @property
    def spent_s(self) -> float:
        """All that has to be repaid: without the training where it ran on another device."""
        return self.search_s + (self.training_s or 0.0)


def payback(
    trial: str,
    training: Sequence[Cost],
    measurements: tuple[Measurement, Measurement],
    cores: int,
    info: MeterInfo | None,
) -> Payback:
    """The formula above, for one candidate; the meter's error of a ratio widens the interval by joules.

    Args:
        measurements: B1 and the candidate, from one run, whose meter is ``info``.
        cores: logical processors, for modelled joules.
    """
    base, own = measurements
    cpu_s = _cpu_s(training)
    joules, kind = _joules(training, own, None if cpu_s is None else cores)
    comparable = joules is not None and (kind == "modelled" or all(cost.meter == own.meter for cost in training))
    by_cpu_s = _replies(cpu_s, base.cpu_s_per_reply, own.cpu_s_per_reply)
    by_joules = _replies(joules, base.j_per_reply, own.j_per_reply) if comparable else None
    if by_joules is not None and info is not None:
        by_joules = widened(by_joules, info.ratio_error)
    return Payback(trial, sum(cost.tokens for cost in training), cpu_s, joules, kind, comparable, by_cpu_s, by_joules)


def ledger(
    about: str,
    trials: Iterable[Trial],
    final: Iterable[Measurement],
    search: Cost | None,
    replies_per_hour: float | None,
) -> Ledger | None:
    """What finding ``about`` took, all candidates' training included; None for B1, or a search of unknown cost.

    Args:
        final: B1 and the winner, from the final run.
        search: of building, measuring and judging, trainings aside.
        replies_per_hour: of the user's traffic; None = unknown, and days are given at some rates.
    """
    if search is None or about == "B1":
        return None
    artifacts = [trial.artifact for trial in trials if trial.artifact is not None]
    training_s = _cpu_s(dict.fromkeys(cost for artifact in artifacts for cost in artifact.spent))  # some share one
    per_reply = {m.arm: m.cpu_s_per_reply for m in final}
    replies = _replies(search.cpu_s + (training_s or 0.0), per_reply["B1"], per_reply["winner"])
    rates = (replies_per_hour,) if replies_per_hour else _RATES
    due = () if replies is None else tuple(Due(rate, _days(replies, rate)) for rate in rates)
    return Ledger(about, training_s, search.cpu_s, search.joules, replies, due)


def _days(replies: Estimate, per_hour: float) -> Estimate:
    per_day = 24 * per_hour
    return Estimate(replies.mean / per_day, replies.lo / per_day, replies.hi / per_day, "days", replies.n)


def _cpu_s(training: Iterable[Cost]) -> float | None:
    """None where a part of it ran on another device."""
    costs = list(training)
    return sum(cost.cpu_s for cost in costs) if all(cost.device in (None, "cpu") for cost in costs) else None


def _joules(training: Sequence[Cost], own: Measurement, cores: int | None) -> tuple[float | None, Kind | None]:
    """Modelled where the replies' are and it ran on these ``cores``; else what meters saw, if they saw it all."""
    if own.meter == INFO.name and cores is not None:
        return sum(modelled_joules(Usage(c.cpu_s, c.wall_s, c.bytes_b), cores) for c in training), "modelled"
    joules = [cost.joules for cost in training if cost.joules is not None]
    return (sum(joules), "measured") if len(joules) == len(training) else (None, None)


def _replies(cost: float | None, base: Estimate | None, own: Estimate | None) -> Estimate | None:
    """None as well where the saving's interval reaches 0: that is never repaid for certain."""
    if cost is None or base is None or own is None:
        return None
    saved = difference(base, own)
    if saved.lo <= 0:
        return None
    return Estimate(cost / saved.mean, cost / saved.hi, cost / saved.lo, "replies", saved.n)
