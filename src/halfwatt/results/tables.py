"""Figures derived from a result for display. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from halfwatt.core.estimate import Estimate
from halfwatt.evaluate import energy_analysis
from halfwatt.evaluate.records import Measurement, QualityReport, Window
from halfwatt.meters.base import MeterInfo
from halfwatt.results.result import Result
from halfwatt.search.trial import Trial, TrialReadings

_DUTIES = (1.0, 10.0, 100.0, 1000.0)  # replies per hour


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    ``energy_vs_B1`` and ``cpu_s_vs_B1`` say how much of B1's this row takes, paired within one run (0.5 = half as
    much); None for B1 itself and where nothing was measured. Candidates that did not reach the final run were measured
    in a run of their own against B1 ("tune"), so only their ratios may be compared with other rows. Of those that a
    search rejected after a glance at their CPU time there is that ratio alone.
    """

    trial: Trial
    title: str
    run: Literal["final", "tune"]
    energy: Measurement | None
    energy_vs_B1: Estimate | None
    cpu_s_vs_B1: Estimate | None
    quality: QualityReport | None
    winner: bool


def rows(result: Result) -> tuple[Row, ...]:
    """B0, B1, then the candidates in the order in which they were tried."""
    return (_b0(result), _b1(result), *(_candidate(result, trial) for trial in result.trials))


def arms(result: Result) -> dict[str, Measurement]:
    """The final run by arm: B0, B1, winner."""
    return {m.arm: m for m in result.final}


def champion(result: Result) -> Trial:
    """The trial that the claim is about: the delivered one, unless the gate refused it."""
    everyone = (*result.trials, result.baselines.B1)
    return next(t for t in everyone if t.name == result.claim.about)


def delivered(result: Result) -> Trial:
    """The trial in the winner's folder."""
    everyone = (*result.trials, result.baselines.B1)
    return next(t for t in everyone if t.name == result.winner)


def readings(result: Result) -> dict[str, TrialReadings]:
    """What each candidate was measured and judged by on the tune split."""
    return {read.trial: read for read in result.raw.trials}


def replies_per_hour(result: Result) -> float | None:
    """Of the traffic, as the user said; None = nobody did."""
    return result.profile.replies_per_hour if result.profile else None


def meter(result: Result) -> MeterInfo | None:
    """The meter that the joules of the final run come from; None when there was none (grade F)."""
    names = {m.meter for m in result.final}
    return next((info for info in result.meters if info.name in names), None)


def absolute_joules(measurement: Measurement | None) -> Estimate | None:
    """J/reply where joules may be stated as such.

    A model claims ratios only: grade E has no known absolute error on a CPU, grade D is stated as a ratio +-30 %.
    """
    if measurement is None or measurement.kind == "modelled":
        return None
    return measurement.j_per_reply


def inverse(ratio: Estimate | None, unit: str) -> Estimate | None:
    """Baseline over candidate turned into candidate over baseline."""
    return None if ratio is None else Estimate(1 / ratio.mean, 1 / ratio.hi, 1 / ratio.lo, unit, ratio.n)


def _b0(result: Result) -> Row:
    info, windows = meter(result), result.raw.windows
    return Row(
        trial=result.baselines.B0,
        title="original, as commonly run",
        run="final",
        energy=arms(result).get("B0"),
        energy_vs_B1=energy_analysis.energy_ratio("B0", "B1", windows, info),
        cpu_s_vs_B1=energy_analysis.ratio("B0", "B1", windows, energy_analysis.cpu_s_per_reply),
        quality=None,
        winner=False,
    )


def _b1(result: Result) -> Row:
    return Row(
        trial=result.baselines.B1,
        title="original, best runtime",
        run="final",
        energy=arms(result).get("B1"),
        energy_vs_B1=None,
        cpu_s_vs_B1=None,
        quality=None,
        winner=result.winner == result.baselines.B1.name,
    )


def _candidate(result: Result, trial: Trial) -> Row:
    """A candidate as the tune split saw it, or as the final run did if it got there."""
    final = trial.name == result.claim.about
    claim = result.claim
    return Row(
        trial=trial,
        title="candidate",
        run="final" if final else "tune",
        energy=arms(result).get("winner") if final else trial.energy,
        energy_vs_B1=inverse(claim.energy_ratio_vs_B1 if final else trial.energy_ratio_vs_B1, "of B1"),
        cpu_s_vs_B1=inverse(claim.cpu_s_ratio_vs_B1 if final else _saved(result, trial), "of B1"),
        quality=result.final_quality if final else trial.quality,
        winner=trial.name == result.winner,
    )


def _saved(result: Result, trial: Trial) -> Estimate | None:
    """B1's CPU-seconds over the trial's on the tune split, where it got no further than a glance too."""
    if trial.cpu_s_ratio_vs_B1 is not None:
        return trial.cpu_s_ratio_vs_B1
    windows = readings(result)[trial.name].windows
    return energy_analysis.ratio("B1", trial.name, windows, energy_analysis.cpu_s_per_reply) if windows else None


@dataclass(frozen=True, slots=True)
class Phases:
    """What one arm uses per reply, split. ``unit`` is J when joules may be stated, else CPU-s."""

    arm: str
    prefill: Estimate
    decode: Estimate
    unit: Literal["J", "CPU-s"]


def phases(result: Result) -> tuple[Phases, ...]:
    """Prefill against decode, for the arms whose prefill had windows of its own."""
    found = []
    for m in result.final:
        if m.kind != "modelled" and m.j_prefill is not None and m.j_decode is not None:
            found.append(Phases(m.arm, m.j_prefill, m.j_decode, "J"))
            continue
        blocks = energy_analysis.Arms.of(result.raw.windows).per_block(
            m.arm, energy_analysis.cpu_s_per_reply, "prefill"
        )
        if len(blocks) >= 2:
            found.append(_cpu_phases(m, list(blocks.values())))
    return tuple(found)


def _cpu_phases(m: Measurement, prefill_s: list[float]) -> Phases:
    from halfwatt.core.statistics import difference, mean

    prefill = mean(prefill_s, "CPU-s/reply")
    return Phases(m.arm, prefill, difference(m.cpu_s_per_reply, prefill), "CPU-s")


@dataclass(frozen=True, slots=True)
class Duty:
    """J/reply of one arm at each of `duties`, loaded idle included; None where one copy cannot serve that many."""

    arm: str
    net_j: float  # the reply alone
    j_per_reply: tuple[float | None, ...]


def idle_watts(result: Result) -> float | None:
    """Loaded idle by a real meter; None when nothing real was read while the models sat idle."""
    info = meter(result)
    if info is None or info.kind == "modelled":
        return None
    return energy_analysis.idle_watts(result.raw.windows, info.name)


def duties(result: Result) -> tuple[float, ...]:
    """Replies an hour at which idle is told: the user's own among some others."""
    said = replies_per_hour(result)
    if said is None:
        return _DUTIES
    return tuple(sorted({said, *(rate for rate in _DUTIES if not said / 2 < rate < said * 2)}))


def duty_cycle(result: Result) -> tuple[Duty, ...]:
    """J/reply = net J/reply + loaded idle W * 3600 s / replies per hour. Empty without measured idle.

    Without interval: idle is read a few times only. One copy that answers one reply at a time is assumed.
    """
    idle, rates = idle_watts(result), duties(result)
    if idle is None:
        return ()
    return tuple(
        Duty(m.arm, m.j_per_reply_net.mean, tuple(_at_duty(m, m.j_per_reply_net.mean, idle, r) for r in rates))
        for m in result.final
        if m.j_per_reply_net is not None
    )


def _at_duty(m: Measurement, net_j: float, idle_w: float, replies_per_h: float) -> float | None:
    if m.s_per_reply.mean * replies_per_h > 3600:
        return None
    return net_j + idle_w * 3600 / replies_per_h


@dataclass(frozen=True, slots=True)
class Point:
    """One window on the timeline; ``share`` is its CPU-seconds per token over its arm's mean."""

    minute: float
    share: float
    discarded: bool


def timeline(result: Result) -> dict[str, tuple[Point, ...]]:
    """Per arm, every window of whole replies in the order in which they ran."""
    windows = [w for w in result.raw.windows if w.phase == "reply" and w.replies]
    if not windows:
        return {}
    begin = min(w.start_s for w in windows)
    found: dict[str, tuple[Point, ...]] = {}
    for arm in dict.fromkeys(w.arm for w in windows):
        mine = [w for w in windows if w.arm == arm]
        clean = [_cpu_s_per_token(w) for w in mine if not w.discarded]
        if clean:
            found[arm] = tuple(_point(w, begin, fmean(clean)) for w in mine)
    return found


def _point(w: Window, begin: float, mean: float) -> Point:
    return Point((w.start_s - begin) / 60, _cpu_s_per_token(w) / mean, w.discarded)


def _cpu_s_per_token(w: Window) -> float:
    """Per token read or written: windows of different replies can be compared by it."""
    return (w.usage[1].cpu_s - w.usage[0].cpu_s) / (w.tokens_in - w.tokens_cached + w.tokens_out)


def disturbed(result: Result) -> tuple[Window, ...]:
    """Windows that something disturbed, those that were kept included."""
    return tuple(w for w in result.raw.windows if w.taints or w.discarded)
