"""Which drawings the page shows, each with what it says and where its numbers come from; `plots` draws them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from halfwatt.evaluate.gate import likelihood_check
from halfwatt.formats.artifact import Part
from halfwatt.meters.base import MeterInfo
from halfwatt.results.report import formatting, plots
from halfwatt.results.report.plots import Rung, Spot
from halfwatt.results.result import Result
from halfwatt.results.tables import Row, arms, champion, duties, duty_cycle, idle_watts, meter, phases, timeline
from halfwatt.search.trial import Trial

_PARTS = 18  # bars that a drawing of a network's parts can take


@dataclass(frozen=True, slots=True)
class Plot:
    """A drawing with what it shows and where its numbers come from."""

    title: str
    svg: Markup | None  # None: nothing to draw, and the caption says why
    caption: str
    origin: str


def figures(result: Result, everyone: tuple[Row, ...]) -> list[Plot]:
    """In the order of the page: what there is nothing to draw of comes last."""
    about = champion(result)
    found = [
        _cpu_ladder(everyone),
        _energy_ladder(result, everyone),
        _quality(result, everyone),
        _split(result),
        _reading(about),
        _serving(about),
        *_break_even(result),
        _timeline(result),
        _duty(result),
    ]
    return sorted(found, key=lambda plot: plot.svg is None)


def _nothing(title: str, why: str) -> Plot:
    return Plot(title, None, f"{formatting.ABSENT} not shown: {why}.", "absent")


def _cpu_ladder(everyone: tuple[Row, ...]) -> Plot:
    """From the dearest down to the cheapest, the rejected ones too, as far as they were measured."""
    rungs = [_rung(row, row.cpu_s_vs_B1) for row in everyone if row.cpu_s_vs_B1]
    rungs.sort(key=lambda rung: -rung.value.mean)
    return Plot(
        "CPU time per reply against B1",
        Markup(plots.ladder(rungs, "share of B1's CPU time (log scale)")),
        "Each in one run with B1. Filled: the final run. Hollow: a run of its own on the tune split, a short one where "
        "the search rejected it.",
        "CPU time measured by the operating system, 95 % intervals",
    )


def _energy_ladder(result: Result, everyone: tuple[Row, ...]) -> Plot:
    """Energy as a share of B1's, paired; absent without an energy number."""
    title, info = "Energy per reply against B1", meter(result)
    rungs = [_rung(row, row.energy_vs_B1) for row in everyone if row.energy_vs_B1]
    if info is None or not rungs:
        return _nothing(title, "there is no energy number without a meter")
    return Plot(
        title,
        Markup(plots.ladder(rungs, "share of B1's energy (log scale)")),
        f"1 = the original in its best runtime. {_meter_error(info)}",
        formatting.origin_line(info),
    )


def _meter_error(info: MeterInfo) -> str:
    if info.ratio_error:
        return f"The intervals hold the meter's own error of a ratio, {info.ratio_error:.0%}."
    return "The meter's gain error cancels in a ratio."


def _quality(result: Result, everyone: tuple[Row, ...]) -> Plot:
    title = "What it costs in quality"
    spots = [spot for row in everyone if (spot := _spot(row)) is not None]
    if not spots:
        return _nothing(title, "no candidate was judged")
    info = meter(result)
    unit = "CPU time" if info is None else "energy"
    margin = math.log1p(result.margins.perplexity)
    return Plot(
        title,
        Markup(plots.quality(spots, margin, f"{unit} per reply (B1 = 1, log scale)")),
        "Change in log-likelihood of the human replies (G1) with its one-sided 95 % bounds; the upper one must stay "
        "below the dashed margin. Filled: the sealed test split. Hollow: the tune split.",
        "loss measured per dialogue; "
        + (f"energy {formatting.origin(info.grade, info.kind)}" if info else "CPU measured"),
    )


def _spot(row: Row) -> Spot | None:
    check, cost = likelihood_check(row.quality.checks if row.quality else ()), row.energy_vs_B1 or row.cpu_s_vs_B1
    if check is None or check.estimate is None or cost is None:
        return None
    return Spot(row.trial.name, cost, check.estimate, _colour(row), row.run == "tune")


def _split(result: Result) -> Plot:
    title = "Where a reply goes: reading and writing"
    found = phases(result)
    if not found:
        return _nothing(title, "prefill had no windows of its own")
    info = meter(result)
    stated = found[0].unit == "J" and info is not None
    return Plot(
        title,
        Markup(plots.split(found, arm_labels(result))),
        "Prefill reads the prompt (its own windows, one token out); decode, the difference, writes the reply.",
        formatting.origin_line(info) if stated else "CPU time measured by the operating system",
    )


def _reading(about: Trial) -> Plot:
    title = f"What {about.name} reads for each token"
    found = () if about.artifact is None else _few([p for p in about.artifact.parts if p.read_b])
    if not found:
        return _nothing(title, "its artifact does not tell its parts")
    caption = "Weights by where a pass meets them; the KV cache comes on top. Why a part has more bits stands below."
    return Plot(title, Markup(plots.parts(found)), caption, "computed from the file")


def _few(parts: Sequence[Part]) -> tuple[Part, ...]:
    """The parts of a deep network, its blocks taken together where they have the same precision."""
    if len(parts) <= _PARTS:
        return tuple(parts)
    alike: dict[tuple[str, str], list[Part]] = {}
    for part in parts:
        alike.setdefault((part.name.rpartition(", ")[2], part.precision), []).append(part)
    return tuple(
        Part(
            some[0].name if len(some) == 1 else f"{len(some)} blocks, {kind}",
            precision,
            sum(p.size_b for p in some),
            sum(p.read_b for p in some),
        )
        for (kind, precision), some in alike.items()
    )


def _serving(about: Trial) -> Plot:
    title = f"Ways of serving {about.name}"
    if len(about.tried) < 2:
        return _nothing(title, "one way of serving was tried")
    cells = {(formatting.decoding(way.at), str(way.at.threads_prefill)): way.share for way in about.tried}
    return Plot(
        title,
        Markup(plots.heat(cells, "threads that read the prompt")),
        "What a reply takes, as a share of one thread for everything; it is the same reply in every way but "
        "those with a coarser cache. From short runs on the tune split: for choosing, not for claiming.",
        "CPU time measured by the operating system, or joules where a meter measures them",
    )


def _duty(result: Result) -> Plot:
    title = "Light use: joules per reply with idle"
    lines, watts, info = duty_cycle(result), idle_watts(result), meter(result)
    if not lines or watts is None or info is None:
        return _nothing(title, _why_no_idle(info))
    return Plot(
        title,
        Markup(plots.duty(lines, duties(result), arm_labels(result))),
        f"Solid: the reply plus {watts:.3g} W of loaded idle until the next one (all models of the run were resident). "
        "Dotted: the reply alone, net of idle.",
        formatting.origin_line(info),
    )


def _break_even(result: Result) -> list[Plot]:
    """Of the candidate that the claim is about: from when on all that it took to find it is repaid."""
    title, told, final = "When it is repaid", result.repaid, arms(result)
    if told is None:
        return []
    if told.replies is None:
        return [_nothing(title, "no saving is certain")]
    drawn = plots.break_even(told.spent_s, final["B1"].cpu_s_per_reply, final["winner"].cpu_s_per_reply, told.replies)
    trained = "training on another device aside" if told.training_s is None else "all training included"
    spent = f"the {told.spent_s:,.0f} CPU-seconds that finding it took, {trained}"
    said = f"All replies so far; {told.about} begins with {spent}."
    return [Plot(title, Markup(drawn), said, "CPU time measured by the operating system")]


def _timeline(result: Result) -> Plot:
    title, points = "Was the machine quiet?", timeline(result)
    if not points:
        return _nothing(title, "no windows were kept")
    return Plot(
        title,
        Markup(plots.timeline({a: list(p) for a, p in points.items()}, arm_labels(result))),
        "CPU time per token read or written, every window, as deviation from its model's mean. "
        "Crosses: disturbed and discarded.",
        "CPU time measured by the operating system",
    )


def _rung(row: Row, value: Any) -> Rung:
    return Rung(row.trial.name, value, _colour(row), row.run == "tune")


def _colour(row: Row) -> str:
    if row.trial.name in ("B0", "B1"):
        return plots.ARM_COLOURS[row.trial.name]
    return plots.WINNER if row.run == "final" else plots.OTHER


def arm_labels(result: Result) -> dict[str, str]:
    """What the arms of the final run are called."""
    about = result.claim.about
    return {"B0": "B0", "B1": "B1", "winner": "B1, again" if about == "B1" else about}


def _why_no_idle(info: MeterInfo | None) -> str:
    if info is None:
        return "there is no energy number without a meter"
    return "a model has no idle to read" if info.kind == "modelled" else "loaded idle was not measured"
