"""Which drawings the page shows, each with what it says and where its numbers come from; `plots` draws them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from halfwatt.core.estimate import Estimate
from halfwatt.evaluate.gate import likelihood_check
from halfwatt.formats.artifact import Part
from halfwatt.results.report import formatting, plots
from halfwatt.results.report.plots import Mark
from halfwatt.results.result import Result
from halfwatt.results.tables import Row, arms, champion, duties, duty_cycle, idle_watts, meter, phases, rows, timeline
from halfwatt.search.trial import Trial

_PARTS = 18  # bars that a drawing of a network's parts can take
_CPU_TIME = "CPU time measured by the operating system"


@dataclass(frozen=True, slots=True)
class Plot:
    """A drawing with what it shows and where its numbers come from."""

    title: str
    svg: Markup | None  # None: nothing to draw, and the caption says why
    caption: str
    origin: str


def figures(result: Result) -> list[Plot]:
    """In the order of the page: what there is nothing to draw of comes last."""
    everyone, about = rows(result), champion(result)
    drawings = [
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
    return sorted(drawings, key=lambda plot: plot.svg is None)


def _nothing(title: str, why: str) -> Plot:
    return Plot(title, None, f"{formatting.ABSENT} not shown: {why}.", "absent")


def _cpu_ladder(everyone: tuple[Row, ...]) -> Plot:
    """From the dearest down, the rejected ones too, as far as they were measured."""
    marks = [_mark(row, row.cpu_s_vs_B1) for row in everyone if row.cpu_s_vs_B1]
    marks.sort(key=lambda mark: -mark.x.mean)
    return Plot(
        "CPU time per reply against B1",
        plots.ladder(marks, "share of B1's CPU time (log scale)"),
        "Each in one run with B1. Filled: the final run. Hollow: a run of its own on the tune split, a short one where "
        "the search rejected it.",
        f"{_CPU_TIME}, 95 % intervals",
    )


def _energy_ladder(result: Result, everyone: tuple[Row, ...]) -> Plot:
    title, info = "Energy per reply against B1", meter(result)
    marks = [_mark(row, row.energy_vs_B1) for row in everyone if row.energy_vs_B1]
    if info is None or not marks:
        return _nothing(title, "there is no energy number without a meter")
    own = f"The intervals hold the meter's own error of a ratio, {info.ratio_error:.0%}."
    error = own if info.ratio_error else "The meter's gain error cancels in a ratio."
    drawing = plots.ladder(marks, "share of B1's energy (log scale)")
    return Plot(title, drawing, f"1 = the original in its best runtime. {error}", formatting.origin_line(info))


def _quality(result: Result, everyone: tuple[Row, ...]) -> Plot:
    title, info = "What it costs in quality", meter(result)
    judged = [(row, likelihood_check(row.trial.quality.checks)) for row in everyone if row.trial.quality]
    costs = [(row, row.energy_vs_B1 or row.cpu_s_vs_B1, check.estimate) for row, check in judged if check]
    marks = [_mark(row, cost, loss) for row, cost, loss in costs if cost and loss]
    if not marks:
        return _nothing(title, "no candidate was judged")
    unit, cost_origin = ("energy", f"energy {formatting.origin(info)}") if info else ("CPU time", "CPU measured")
    return Plot(
        title,
        plots.quality(marks, math.log1p(result.margins.perplexity), f"{unit} per reply (B1 = 1, log scale)"),
        "Change in log-likelihood of the human replies (G1) with its one-sided 95 % bounds; the upper one must stay "
        "below the dashed margin. Filled: the sealed test split. Hollow: the tune split.",
        f"loss measured per dialogue; {cost_origin}",
    )


def _split(result: Result) -> Plot:
    title, arm_phases, info = "Where a reply goes: reading and writing", phases(result), meter(result)
    if not arm_phases:
        return _nothing(title, "prefill had no windows of its own")
    return Plot(
        title,
        plots.split(arm_phases, arm_labels(result)),
        "Prefill reads the prompt (its own windows, one token out); decode, the difference, writes the reply.",
        formatting.origin_line(info) if arm_phases[0].unit == "J" and info else _CPU_TIME,
    )


def _reading(about: Trial) -> Plot:
    title = f"What {about.name} reads for each token"
    parts = _merged([part for part in about.artifact.parts if part.read_b]) if about.artifact else ()
    if not parts:
        return _nothing(title, "its artifact does not tell its parts")
    caption = "Weights by where a pass meets them; the KV cache comes on top. Why a part has more bits stands below."
    return Plot(title, plots.reading(parts), caption, "computed from the file")


def _merged(parts: Sequence[Part]) -> Sequence[Part]:
    """Of a deep network, blocks of the same precision taken together."""
    if len(parts) <= _PARTS:
        return parts
    groups: dict[tuple[str, str], list[Part]] = {}
    for part in parts:
        groups.setdefault((part.name.rpartition(", ")[2], part.precision), []).append(part)
    merged = []
    for (kind, precision), group in groups.items():
        name = group[0].name if len(group) == 1 else f"{len(group)} blocks, {kind}"
        merged.append(Part(name, precision, sum(p.size_b for p in group), sum(p.read_b for p in group)))
    return merged


def _serving(about: Trial) -> Plot:
    title = f"Ways of serving {about.name}"
    if len(about.tried) < 2:
        return _nothing(title, "one way of serving was tried")
    shares = {
        (formatting.operating_point(way.at, brief=True), str(way.at.threads_prefill)): way.share for way in about.tried
    }
    return Plot(
        title,
        plots.heat(shares, "threads that read the prompt"),
        "What a reply takes, as a share of one thread for everything; it is the same reply in every way but "
        "those with a coarser cache. From short runs on the tune split: for choosing, not for claiming.",
        f"{_CPU_TIME}, or joules where a meter measures them",
    )


def _break_even(result: Result) -> list[Plot]:
    """Of the candidate that the claim is about: from when on all that it took to find it is repaid."""
    title, ledger, final = "When it is repaid", result.repaid, arms(result)
    if ledger is None:
        return []
    if ledger.replies is None:
        return [_nothing(title, "no saving is certain")]
    drawing = plots.break_even(ledger, final["B1"].cpu_s_per_reply, final["winner"].cpu_s_per_reply, ledger.replies)
    training = "training on another device aside" if ledger.training_s is None else "all training included"
    spent = f"the {ledger.spent_s:,.0f} CPU-seconds that finding it took, {training}"
    return [Plot(title, drawing, f"All replies so far; {ledger.about} begins with {spent}.", _CPU_TIME)]


def _timeline(result: Result) -> Plot:
    title, points = "Was the machine quiet?", timeline(result)
    if not points:
        return _nothing(title, "no windows were kept")
    return Plot(
        title,
        plots.timeline(points, arm_labels(result)),
        "CPU time per token read or written, every window, as deviation from its model's mean. "
        "Crosses: disturbed and discarded.",
        _CPU_TIME,
    )


def _duty(result: Result) -> Plot:
    title = "Light use: joules per reply with idle"
    lines, idle_w, info = duty_cycle(result), idle_watts(result), meter(result)
    if info is None:
        return _nothing(title, "there is no energy number without a meter")
    if not lines or idle_w is None:
        modelled = info.kind == "modelled"
        return _nothing(title, "a model has no idle to read" if modelled else "loaded idle was not measured")
    return Plot(
        title,
        plots.duty(lines, duties(result), arm_labels(result)),
        f"Solid: the reply plus {idle_w:.3g} W of loaded idle until the next one (all models of the run were resident)."
        " Dotted: the reply alone, net of idle.",
        formatting.origin_line(info),
    )


def _mark(row: Row, x: Estimate, y: Estimate | None = None) -> Mark:
    colour = plots.ARM_COLOURS.get(row.trial.name, plots.WINNER if row.run == "final" else plots.OTHER)
    return Mark(row.trial.name, colour, row.run == "tune", x, y)


def arm_labels(result: Result) -> dict[str, str]:
    """What the arms of the final run are called."""
    about = result.claim.about
    return {"B0": "B0", "B1": "B1", "winner": "B1, again" if about == "B1" else about}
