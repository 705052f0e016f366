"""Figures derived from a result for display: its rows, paybacks, phases, duty cycle and timeline. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Literal

from halfwatt.core.errors import BadInput
from halfwatt.core.estimate import Estimate
from halfwatt.core.statistics import difference, mean
from halfwatt.evaluate import energy_analysis
from halfwatt.evaluate.records import Measurement, Window
from halfwatt.evaluate.saving_explained import SavingExplained, explain_saving
from halfwatt.meters.base import MeterInfo
from halfwatt.results.payback import Payback, payback
from halfwatt.results.result import Result
from halfwatt.search.trial import Trial, TrialReadings

_RATES = (1.0, 10.0, 100.0, 1000.0)  # replies per hour


def arms(result: Result) -> dict[str, Measurement]:
    """The final run by arm: B0, B1, winner."""
    return {m.arm: m for m in result.final}


def champion(result: Result) -> Trial:
    """The trial that the claim is about: the delivered one, unless the gate refused it."""
    return _trial(result, result.claim.about)


def delivered(result: Result) -> Trial:
    """The trial in the winner's folder."""
    return _trial(result, result.winner)


def _trial(result: Result, name: str) -> Trial:
    return next(trial for trial in (*result.trials, result.baselines.B1) if trial.name == name)


def readings(result: Result) -> dict[str, TrialReadings]:
    """What each candidate was measured and judged by on the tune split."""
    return {read.trial: read for read in result.raw.trials}


def meter(result: Result) -> MeterInfo | None:
    """Of the final run's joules; None when there was none (grade F)."""
    return meter_of(result.final[0], result.meters)


def meter_of(measurement: Measurement, meters: Sequence[MeterInfo]) -> MeterInfo | None:
    """The one among ``meters`` that the joules come from."""
    return next((info for info in meters if info.name == measurement.meter), None)


def explained(result: Result) -> SavingExplained | None:
    """What the claim's saving over B1 comes from; None = it is about B1 itself, or too few replies are there.
    Of a cascade no reply costs what another one does."""
    inputs = result.raw.quality_inputs
    if inputs is None or result.mixed is not None or result.claim.about == result.baselines.B1.name:
        return None
    with suppress(BadInput):
        return explain_saving("B1", "winner", result.raw.windows, inputs)
    return None


def absolute_joules(m: Measurement) -> Estimate | None:
    """J/reply where joules may be stated: a model claims ratios only, since its absolute error is not known."""
    return None if m.kind == "modelled" else m.j_per_reply


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: a trial with the figures of the run that it is shown by.

    Candidates outside the final run had one of their own against B1 ("tune"), so only their ratios compare with other
    rows. Of those that a search rejected after a glance at their CPU time there is that ratio alone.
    """

    trial: Trial
    title: str
    run: Literal["final", "tune"]
    winner: bool

    @property
    def energy_vs_B1(self) -> Estimate | None:
        """How much of B1's it takes, paired within one run: 0.5 = half as much. None: B1 itself, or not measured."""
        return _inverse(self.trial.energy_ratio_vs_B1)

    @property
    def cpu_s_vs_B1(self) -> Estimate | None:
        return _inverse(self.trial.cpu_s_ratio_vs_B1)


def _inverse(ratio: Estimate | None) -> Estimate | None:
    """Baseline over candidate turned into candidate over baseline."""
    return None if ratio is None else Estimate(1 / ratio.mean, 1 / ratio.hi, 1 / ratio.lo, "of B1", ratio.n)


def rows(result: Result) -> tuple[Row, ...]:
    """B0, B1, then the candidates in the order in which they were tried."""
    info, windows, b1 = meter(result), result.raw.windows, result.baselines.B1
    first: tuple[Row, ...] = ()
    if result.baselines.B0 is not None:
        b0 = replace(
            result.baselines.B0,
            energy_ratio_vs_B1=energy_analysis.energy_ratio("B1", "B0", windows, info),
            cpu_s_ratio_vs_B1=energy_analysis.ratio("B1", "B0", windows, energy_analysis.cpu_s_per_reply),
        )
        first = (Row(b0, "original, as commonly run", "final", winner=False),)
    return (
        *first,
        Row(b1, "original, best runtime", "final", winner=result.winner == b1.name),
        *(_candidate(result, trial) for trial in result.trials),
    )


def _candidate(result: Result, trial: Trial) -> Row:
    """A candidate as the final run saw it if it got there, else as the tune split did."""
    winner = trial.name == result.winner
    if trial.name == result.claim.about:
        return Row(proven(result, trial), "candidate", "final", winner)
    if trial.cpu_s_ratio_vs_B1 is None and (windows := readings(result)[trial.name].windows):
        ratio = energy_analysis.ratio("B1", trial.name, windows, energy_analysis.cpu_s_per_reply)
        trial = replace(trial, cpu_s_ratio_vs_B1=ratio)
    return Row(trial, "candidate", "tune", winner)


def proven(result: Result, trial: Trial) -> Trial:
    """What the claim is about, with its figures of the final run and the sealed split."""
    return replace(
        trial,
        energy=arms(result)["winner"],
        quality=result.final_quality,
        mixed=result.mixed,
        cpu_s_ratio_vs_B1=result.claim.cpu_s_ratio_vs_B1,
        energy_ratio_vs_B1=result.claim.energy_ratio_vs_B1,
    )


def paybacks(result: Result) -> tuple[Payback, ...]:
    """Of every trial that was trained and measured, from the run that measured it against B1."""
    reads, final, info, paid = readings(result), arms(result), meter(result), []
    for trial in result.trials:
        if trial.artifact is None or not trial.artifact.spent or trial.energy is None:
            continue
        pair = final["B1"], final["winner"]
        if trial.name != result.claim.about:
            pair = energy_analysis.measurement("B1", reads[trial.name].windows, info), trial.energy
        paid.append(payback(trial.name, trial.artifact.spent, pair, int(result.provenance.machine["cores"]), info))
    return tuple(paid)


@dataclass(frozen=True, slots=True)
class Phases:
    """What one arm uses per reply, split. ``unit`` is J when joules may be stated, else CPU-s."""

    arm: str
    prefill: Estimate
    decode: Estimate
    unit: Literal["J", "CPU-s"]


def phases(result: Result) -> tuple[Phases, ...]:
    """Prefill against decode, of the arms whose prefill had windows of its own."""
    windows, cpu_s, split = result.raw.windows, energy_analysis.cpu_s_per_reply, []
    for m in result.final:
        prefill_s = list(energy_analysis.per_block(m.arm, windows, cpu_s, "prefill").values())
        if m.kind != "modelled" and m.j_prefill is not None and m.j_decode is not None:
            split.append(Phases(m.arm, m.j_prefill, m.j_decode, "J"))
        elif len(prefill_s) >= 2:
            prefill = mean(prefill_s, "CPU-s/reply")
            split.append(Phases(m.arm, prefill, difference(m.cpu_s_per_reply, prefill), "CPU-s"))
    return tuple(split)


@dataclass(frozen=True, slots=True)
class Duty:
    """J/reply of one arm at each of `duties`, loaded idle included; None where one copy cannot serve that many."""

    arm: str
    net_j: float  # the reply alone
    j_per_reply: tuple[float | None, ...]


def idle_watts(result: Result) -> float | None:
    """Loaded idle by a real meter; None where there was none to read it."""
    info = meter(result)
    if info is None or info.kind == "modelled":
        return None
    return energy_analysis.idle_watts(result.raw.windows, info.name)


def duties(result: Result) -> tuple[float, ...]:
    """Replies an hour at which idle is shown: the user's own among some others."""
    if result.profile is None or (own := result.profile.replies_per_hour) is None:
        return _RATES
    return tuple(sorted({own, *(rate for rate in _RATES if not own / 2 < rate < own * 2)}))


def duty_cycle(result: Result) -> tuple[Duty, ...]:
    """J/reply = net J/reply + loaded idle W * 3600 s / replies per hour. Empty without measured idle.

    Without interval: idle is read a few times only. One copy that answers one reply at a time is assumed.
    """
    idle_w, rates = idle_watts(result), duties(result)
    if idle_w is None:
        return ()
    lines = []
    for m in result.final:
        if m.j_per_reply_net is not None:
            net_j, s = m.j_per_reply_net.mean, m.s_per_reply.mean
            j_per_reply = tuple(net_j + idle_w * 3600 / rate if s * rate <= 3600 else None for rate in rates)
            lines.append(Duty(m.arm, net_j, j_per_reply))
    return tuple(lines)


@dataclass(frozen=True, slots=True)
class Point:
    """One window on the timeline; ``share`` is its CPU-seconds per token over its arm's mean."""

    minute: float
    share: float
    discarded: bool


def timeline(result: Result) -> dict[str, tuple[Point, ...]]:
    """Per arm, every window of whole replies in the order in which they ran."""
    windows = [w for w in result.raw.windows if w.phase == "reply" and w.replies]
    begin_s = min((w.start_s for w in windows), default=0.0)
    lines: dict[str, tuple[Point, ...]] = {}
    for arm in dict.fromkeys(w.arm for w in windows):
        own = [w for w in windows if w.arm == arm]
        clean = [_cpu_s_per_token(w) for w in own if not w.discarded]
        if clean:
            level = fmean(clean)
            lines[arm] = tuple(Point((w.start_s - begin_s) / 60, _cpu_s_per_token(w) / level, w.discarded) for w in own)
    return lines


def _cpu_s_per_token(w: Window) -> float:
    """Per token read or written: windows of different replies can be compared by it."""
    return w.consumption.cpu_s / (w.tokens_in - w.tokens_cached + w.tokens_out)
