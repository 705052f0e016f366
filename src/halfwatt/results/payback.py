"""What a candidate's training cost, and after how many replies that is paid back. Pure.

    replies = spent in training / (spent by B1 on a reply - spent by the candidate on a reply)

both in the same unit: CPU-seconds, which are always measured, and joules where one meter saw both. Where the run's
joules are modelled the training is modelled by the same formula, so that the quotient is a ratio: all that a model may
claim. What was trained on a GPU and answers on a processor has neither: its joules stand alone, where measured. Only
steps that learn count as training. `ledger` adds what the whole search took: every candidate's training, and making,
measuring and judging all of them; as days, at a number of replies an hour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from halfwatt.core.estimate import Estimate
from halfwatt.core.statistics import difference, widened
from halfwatt.evaluate import energy_analysis
from halfwatt.evaluate.records import Measurement
from halfwatt.meters.base import Kind, MeterInfo, Usage
from halfwatt.meters.cost import Cost
from halfwatt.meters.modelled import INFO, modelled_joules
from halfwatt.results.result import Due, Ledger, Result
from halfwatt.results.tables import arms, meter, readings, replies_per_hour

_RATES = (100.0, 1000.0, 10_000.0)  # replies an hour, where the user did not say


@dataclass(frozen=True, slots=True)
class Payback:
    """The price of one candidate's training. None: not measured, or no saving for certain."""

    trial: str
    tokens: int
    cpu_s: float | None  # None: a part of it ran on another device
    joules: float | None
    kind: Kind | None  # of the joules
    alike: bool  # told as the replies' joules are, by one meter or one model
    replies_by_cpu_s: Estimate | None
    replies_by_joules: Estimate | None


def paybacks(result: Result) -> tuple[Payback, ...]:
    """Of every trial that was trained and measured, from the run in which it met B1."""
    reads = readings(result)
    final, info = arms(result), meter(result)
    cores = int(result.provenance.machine["cores"])
    found = []
    for trial in result.trials:
        if trial.artifact is None or not trial.artifact.spent or trial.energy is None:
            continue
        if trial.name == result.claim.about:
            met = final["B1"], final["winner"]
        else:
            met = energy_analysis.measurement("B1", reads[trial.name].windows, info), trial.energy
        found.append(payback(trial.name, trial.artifact.spent, met, cores, info))
    return tuple(found)


def ledger(result: Result) -> Ledger | None:
    """Of the candidate that the claim is about; None for B1 itself, or where the run did not write it down."""
    if result.took is None or result.claim.about == "B1":
        return None
    every = {s for t in result.trials if t.artifact is not None for s in t.artifact.spent}
    here = all(s.device in (None, "cpu") for s in every)
    training_s = sum(s.cpu_s for s in every) if here else None
    found = Ledger(result.claim.about, training_s, result.took.cpu_s, result.took.joules, replies=None, due=())
    final = arms(result)
    saved = final["B1"].cpu_s_per_reply, final["winner"].cpu_s_per_reply
    replies, said = _replies(found.spent_s, *saved, 0.0), replies_per_hour(result)
    if replies is None:
        return found
    return replace(found, replies=replies, due=tuple(_due(replies, rate) for rate in ((said,) if said else _RATES)))


def _due(replies: Estimate, rate: float) -> Due:
    hours = 24 * rate
    return Due(rate, Estimate(replies.mean / hours, replies.lo / hours, replies.hi / hours, "days", replies.n))


def payback(
    name: str, spent: Sequence[Cost], met: tuple[Measurement, Measurement], cores: int, info: MeterInfo | None
) -> Payback:
    """The formula above.

    Args:
        met: B1 and the candidate, from one run.
        cores: logical processors, for modelled joules.
        info: the meter of that run; its error of a ratio widens the interval of the replies by joules.
    """
    base, own = met
    here = all(s.device in (None, "cpu") for s in spent)
    cpu_s = sum(s.cpu_s for s in spent) if here else None
    joules, kind = _joules(spent, own, cores if here else None)
    alike = joules is not None and (kind == "modelled" or all(s.meter == own.meter for s in spent))
    return Payback(
        trial=name,
        tokens=sum(s.tokens for s in spent),
        cpu_s=cpu_s,
        joules=joules,
        kind=kind,
        alike=alike,
        replies_by_cpu_s=_replies(cpu_s, base.cpu_s_per_reply, own.cpu_s_per_reply, 0.0),
        replies_by_joules=_replies(
            joules if alike else None, base.j_per_reply, own.j_per_reply, info.ratio_error if info else 0.0
        ),
    )


def _joules(spent: Sequence[Cost], own: Measurement, cores: int | None) -> tuple[float | None, Kind | None]:
    """Modelled where the replies' are and it ran on these ``cores``; else what meters saw, if they saw it all."""
    if own.meter == INFO.name and cores is not None:
        return sum(modelled_joules(Usage(s.cpu_s, s.wall_s, s.bytes_b), cores) for s in spent), "modelled"
    seen = [s.joules for s in spent if s.joules is not None]
    return (sum(seen), "measured") if len(seen) == len(spent) else (None, None)


def _replies(spent: float | None, base: Estimate | None, own: Estimate | None, systematic: float) -> Estimate | None:
    """None as well where the saving's interval reaches 0: that is never repaid for certain."""
    if spent is None or base is None or own is None:
        return None
    saved = difference(base, own)
    if saved.lo <= 0:
        return None
    replies = Estimate(spent / saved.mean, spent / saved.hi, spent / saved.lo, "replies", saved.n)
    return widened(replies, systematic)
