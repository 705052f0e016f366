"""The plots of the page: matplotlib's SVG, inline, in the colours of the page.

Every plot is drawn once with marker colours; afterwards each of them becomes a CSS variable, so that light, dark and
print are the page's own business. Text stays text: it takes the page's font and can be searched and selected.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from textwrap import wrap
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from halfwatt.core.estimate import Estimate
from halfwatt.formats.artifact import Part
from halfwatt.results.report import formatting
from halfwatt.results.tables import Duty, Phases, Point

# A colour that no plot would use by itself -> the page's variable.
INK, MUTED, GRID, B0, B1, WINNER, OTHER, BAD = (f"#0{i}0{i}0{i}" for i in range(1, 9))
_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--line",
    B0: "--b0",
    B1: "--b1",
    WINNER: "--winner",
    OTHER: "--other",
    BAD: "--bad",
}
ARM_COLOURS = {"B0": B0, "B1": B1, "winner": WINNER}
_LINE = 17  # letters of a name on one line
_WIDTH = 420  # units of the SVG; about one CSS pixel on a phone
_STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 12,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
}


@dataclass(frozen=True, slots=True)
class Rung:
    """One line of a ladder plot. ``open``: measured in a run of its own."""

    label: str
    value: Estimate
    colour: str
    open: bool


@dataclass(frozen=True, slots=True)
class Spot:
    """One candidate between cost (share of B1) and loss (nats per token)."""

    label: str
    cost: Estimate
    loss: Estimate
    colour: str
    open: bool


def ladder(rungs: Sequence[Rung], unit: str) -> str:
    """Each rung's share of what B1 takes with its interval, on a log axis with a line at B1's 1."""
    names = [_folded(rung.label) for rung in rungs]
    with _canvas(60 + _row(names, 34) * len(rungs)) as (canvas, axes):
        for y, rung in enumerate(rungs):
            _dot(axes, rung.value, y, rung.colour, hollow=rung.open)
            shown = formatting.figure(rung.value, "").value
            axes.annotate(
                shown,
                (rung.value.mean, y),
                xytext=(0, 8),
                textcoords="offset points",
                ha="center",
                color=rung.colour if rung.colour != OTHER else MUTED,
                fontweight="bold" if rung.colour == WINNER else "normal",
            )
        axes.set_yticks(range(len(rungs)), names)
        axes.tick_params(axis="y", labelcolor=INK)
        axes.set_ylim(len(rungs) - 0.5, -0.8)
        axes.axvline(1.0, color=B1, linewidth=1.2)
        axes.annotate("B1", (1.0, -0.75), xytext=(4, -4), textcoords="offset points", color=B1, va="top")
        _log_x(axes, [1.0, *(v for r in rungs for v in (r.value.lo, r.value.mean, r.value.hi))])
        axes.set_xlabel(unit)
        axes.grid(axis="y", visible=False)
        return _svg(canvas, f"ladder {unit}")


def quality(spots: Sequence[Spot], margin: float, cost_unit: str) -> str:
    """Loss against cost; above the dashed line is worse than the margin allows."""
    origin = Spot("B1", Estimate(1, 1, 1, "", 0), Estimate(0, 0, 0, "", 0), B1, False)
    everyone = [*spots, origin]
    with _canvas(280, right=0.71) as (canvas, axes):
        axes.axhline(0, color=MUTED, linewidth=0.8)
        axes.axhline(margin, color=BAD, linewidth=1.4, linestyle=(0, (5, 3)))
        for spot in everyone:
            _spot(axes, spot)
        _log_x(axes, [v for s in everyone for v in (s.cost.lo, s.cost.mean, s.cost.hi)])
        low, high = min(0.0, *(s.loss.lo for s in spots)), max(margin, *(s.loss.hi for s in spots))
        room = (high - low) * 0.12
        axes.set_ylim(low - room, high + room)
        _name_at_right(axes, everyone, gap=0.075)
        axes.annotate(
            f"margin {margin:.4f}",
            (0, margin),
            xycoords=("axes fraction", "data"),
            xytext=(4, 5),
            textcoords="offset points",
            color=BAD,
        )
        axes.set_xlabel(cost_unit)
        axes.set_ylabel("loss, nats per token")
        return _svg(canvas, "quality")


def _spot(axes: Axes, spot: Spot) -> None:
    x, y = spot.cost, spot.loss
    axes.errorbar(
        x.mean,
        y.mean,
        xerr=[[x.mean - x.lo], [x.hi - x.mean]],
        yerr=[[y.mean - y.lo], [y.hi - y.mean]],
        fmt="o",
        color=spot.colour,
        markerfacecolor="none" if spot.open else spot.colour,
        elinewidth=1.4,
        markersize=7,
    )


def _name_at_right(axes: Axes, spots: Sequence[Spot], gap: float) -> None:
    """Names beside the plot, ``gap`` of its height for a line, each with a line to its spot."""
    low, high = axes.get_ylim()
    ordered = sorted(spots, key=lambda s: s.loss.mean)
    names = [_folded(spot.label) for spot in ordered]
    heights = _apart([(s.loss.mean - low) / (high - low) for s in ordered], gap * max(map(_lines, names)))
    for spot, text, at in zip(ordered, names, heights, strict=True):
        name = axes.annotate(
            text,
            (spot.cost.mean, spot.loss.mean),
            xytext=(1.03, at),
            textcoords="axes fraction",
            va="center",
            color=spot.colour if spot.colour != OTHER else MUTED,
            fontweight="bold" if spot.colour == WINNER else "normal",
            arrowprops={"arrowstyle": "-", "color": GRID, "linewidth": 0.8},
        )
        name.set_in_layout(False)


def split(found: Sequence[Phases], labels: dict[str, str]) -> str:
    """Prefill and decode as shares of each arm's reply, labelled with their size."""
    scale, unit = (1.0, "J") if found[0].unit == "J" else (1000.0, "ms")
    names = [_folded(labels[phase.arm]) for phase in found]
    with _canvas(60 + _row(names, 44) * len(found)) as (canvas, axes):
        for y, phase in enumerate(found):
            whole = phase.prefill.mean + phase.decode.mean
            left = 0.0
            for part, alpha in ((phase.prefill, 0.35), (phase.decode, 0.85)):
                share = part.mean / whole * 100
                axes.barh(y, share, left=left, height=0.42, color=ARM_COLOURS[phase.arm], alpha=alpha)
                axes.annotate(
                    f"{formatting.figure(part, '', scale=scale).value} {unit}",
                    (left + share / 2, y - 0.23),
                    xytext=(0, 3),
                    textcoords="offset points",
                    ha="center",
                )
                left += share
        axes.set_yticks(range(len(found)), names)
        axes.tick_params(axis="y", labelcolor=INK)
        axes.set_ylim(len(found) - 0.55, -0.75)
        axes.set_xlim(0, 100)
        axes.set_xlabel("% of the reply: pale = prefill, full = decode")
        axes.grid(axis="y", visible=False)
        return _svg(canvas, "split")


def duty(lines: Sequence[Duty], rates: Sequence[float], labels: dict[str, str]) -> str:
    """J/reply over replies per hour, loaded idle included; dotted: the reply alone. Both axes are logarithmic."""
    with _canvas(270, right=0.85) as (canvas, axes):
        for line in lines:
            colour = ARM_COLOURS[line.arm]
            known = [(rate, j) for rate, j in zip(rates, line.j_per_reply, strict=True) if j is not None]
            axes.plot(*zip(*known, strict=True), "o-", color=colour, markersize=5, linewidth=1.6)
            axes.axhline(line.net_j, color=colour, linewidth=1.4, linestyle=(0, (1, 2)))
        axes.set_yscale("log")
        axes.set_xscale("log")
        axes.set_xticks(rates, [f"{rate:,g}" for rate in rates])
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_ylim(bottom=min(line.net_j for line in lines) / 2)
        low, high = (math.log(y) for y in axes.get_ylim())
        names = sorted(((math.log(line.net_j) - low) / (high - low), line.arm) for line in lines)
        shown = {line.arm: _folded(labels[line.arm]) for line in lines}
        gap = 0.075 * max(map(_lines, shown.values()))
        for (_, arm), at in zip(names, _apart([at for at, _ in names], gap), strict=True):
            axes.text(1.03, at, shown[arm], transform=axes.transAxes, va="center", color=ARM_COLOURS[arm])
        axes.set_xlabel("replies per hour")
        axes.set_ylabel("J per reply")
        return _svg(canvas, "duty")


def heat(cells: Mapping[tuple[str, str], float], across: str) -> str:
    """A share in every cell that was tried, (row, column) -> share; the darker the cheaper, the best one framed."""
    rows, columns = (list(dict.fromkeys(key[k] for key in cells)) for k in (0, 1))
    best, worst = min(cells.values()), max(cells.values())
    with _canvas(70 + 34 * len(rows)) as (canvas, axes):
        for (row, column), share in cells.items():
            dark = 0.85 - 0.7 * math.log(share / best) / max(1e-9, math.log(worst / best))
            x, y = columns.index(column), rows.index(row)
            edge = {"edgecolor": INK, "linewidth": 1.6} if share == best else {"linewidth": 0}
            axes.add_patch(Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, facecolor=WINNER, alpha=dark, **edge))
            axes.text(x, y, f"{share:.2f}", ha="center", va="center")
        axes.set_xticks(range(len(columns)), columns)
        axes.set_yticks(range(len(rows)), rows)
        axes.set_xlim(-0.5, len(columns) - 0.5)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel(across)
        axes.grid(visible=False)
        return _svg(canvas, "heat")


def parts(found: Sequence[Part]) -> str:
    """Bytes that a decode step reads, part by part."""
    with _canvas(60 + 26 * len(found)) as (canvas, axes):
        axes.barh(range(len(found)), [p.read_b / 1e3 for p in found], height=0.55, color=WINNER, alpha=0.85)
        for y, part in enumerate(found):
            axes.annotate(
                f"{part.precision}, {part.read_b / 1e3:,.0f} kB",
                (part.read_b / 1e3, y),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
            )
        axes.set_yticks(range(len(found)), [p.name for p in found])
        axes.tick_params(axis="y", labelcolor=INK)
        axes.set_ylim(len(found) - 0.5, -0.5)
        axes.set_xlim(0, 1.55 * max(p.read_b for p in found) / 1e3)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.set_xlabel("kB of weights read for each token")
        axes.grid(axis="y", visible=False)
        return _svg(canvas, "parts")


def break_even(spent: float, base: Estimate, own: Estimate, replies: Estimate) -> str:
    """CPU-seconds of all replies so far, B1's from nothing, the candidate's from what finding it took.

    base, own: CPU-seconds a reply, with their intervals as bands; replies: where the lines meet
    """
    with _canvas(250, right=0.9) as (canvas, axes):
        until = 2 * replies.mean
        for start, e, colour, label in ((0.0, base, B1, "B1"), (spent, own, WINNER, "found")):
            axes.fill_between(
                [0, until], [start, start + e.lo * until], [start, start + e.hi * until], color=colour, alpha=0.25, lw=0
            )
            axes.plot([0, until], [start, start + e.mean * until], color=colour, linewidth=1.8)
            axes.annotate(
                label,
                (until, start + e.mean * until),
                xytext=(5, 0),
                textcoords="offset points",
                color=colour,
                va="center",
            )
        at = base.mean * replies.mean
        bar = [[replies.mean - replies.lo], [replies.hi - replies.mean]]
        axes.errorbar(replies.mean, at, xerr=bar, fmt="o", color=INK, markersize=6, elinewidth=1.6)
        axes.annotate("repaid", (replies.mean, at), xytext=(8, -14), textcoords="offset points")
        axes.set_xlim(0, until)
        axes.set_ylim(bottom=0)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(5))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.set_xlabel("replies")
        axes.set_ylabel("CPU-s in all")
        return _svg(canvas, "break-even")


def timeline(points: dict[str, Sequence[Point]], labels: dict[str, str]) -> str:
    """Every window as a deviation from its arm's mean, so that drift shows; crosses were discarded."""
    known = {arm: found for arm, found in points.items() if arm in ARM_COLOURS}
    with rc_context(_STYLE):
        height = 48 + 84 * len(known)
        canvas = Canvas(figsize=(_WIDTH / 72, height / 72))
        canvas.subplots_adjust(left=0.12, right=0.99, top=1 - 20 / height, bottom=44 / height, hspace=0.5)
        panels = canvas.subplots(len(known), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
        clean = [abs(p.share - 1) * 100 for found in known.values() for p in found if not p.discarded]
        limit = max(2.0, 1.25 * max(clean))
        for axes, (arm, found) in zip(panels, known.items(), strict=True):
            _deviations(axes, found, ARM_COLOURS[arm], limit)
            axes.set_ylim(-limit, limit)
            axes.yaxis.set_major_locator(MaxNLocator(5, symmetric=True))
            axes.yaxis.set_major_formatter(
                FuncFormatter(lambda value, _: f"{value:g} %".replace("-", "\N{MINUS SIGN}"))
            )
            axes.set_title(labels[arm], loc="left", fontsize=12, color=ARM_COLOURS[arm], pad=2)
        panels[-1].set_xlabel("minutes into the run")
        return _svg(canvas, "timeline")


def _deviations(axes: Axes, points: Sequence[Point], colour: str, limit: float) -> None:
    """Per cent from the mean; what lies beyond ``limit`` is marked at the edge."""
    clean = [p for p in points if not p.discarded]
    dropped = [p for p in points if p.discarded]
    edge = [max(-limit, min(limit, (p.share - 1) * 100)) for p in dropped]
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.plot([p.minute for p in clean], [(p.share - 1) * 100 for p in clean], "o-", color=colour, ms=4, lw=0.9)
    axes.plot([p.minute for p in dropped], edge, "x", color=BAD, ms=6, mew=1.6, clip_on=False)


def _apart(wanted: Sequence[float], gap: float) -> list[float]:
    """Rising positions, moved up where two are nearer than ``gap``."""
    placed: list[float] = []
    for at in wanted:
        placed.append(max(at, placed[-1] + gap) if placed else at)
    return placed


# --- drawing and theming ----------------------------------------------------------------------------------------------


@contextmanager
def _canvas(height: int, right: float = 1.0) -> Iterator[tuple[Canvas, Axes]]:
    """A styled canvas of ``height`` units with one pair of axes, which keep left of ``right``."""
    with rc_context(_STYLE):
        layout = ConstrainedLayoutEngine(rect=(0, 0, right, 1))
        canvas = Canvas(figsize=(_WIDTH / 72, height / 72), layout=layout)
        yield canvas, canvas.subplots()


def _folded(label: str) -> str:
    """A name on a few short lines; a plot has no room for a long one."""
    return "\n".join(wrap(label, _LINE, max_lines=3, placeholder=" …"))


def _lines(name: str) -> int:
    return name.count("\n") + 1


def _row(names: Sequence[str], least: int) -> int:
    """Height of a row, for the tallest of these names."""
    return max(least, *(8 + 15 * _lines(name) for name in names))


def _dot(axes: Axes, e: Estimate, y: float, colour: str, *, hollow: bool) -> None:
    axes.errorbar(
        e.mean,
        y,
        xerr=[[e.mean - e.lo], [e.hi - e.mean]],
        fmt="o",
        color=colour,
        markerfacecolor="none" if hollow else colour,
        elinewidth=2,
        markersize=8,
    )


def _log_x(axes: Axes, values: Sequence[float]) -> None:
    axes.set_xscale("log")
    shown = [v for v in values if v > 0]  # an interval that reaches 0 runs off the left edge
    low, high = min(shown), max(shown)
    room = max((high / low) ** 0.12, 1.15)
    axes.set_xlim(low / room, high * room)
    steps = (1.0, 2.0, 5.0) if high / low > 6 else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
    axes.xaxis.set_major_locator(LogLocator(subs=steps, numticks=12))  # 1, 2, 5, 10 instead of powers of ten
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _svg(canvas: Canvas, name: str) -> str:
    """The figure as one inline ``<svg>``: no prologue, no metadata, ids of its own, colours from the page."""
    buffer = StringIO()
    with rc_context({"svg.hashsalt": name}):
        canvas.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' id="[\w.]+_\d+"', "", svg)  # "axes_1" and the like, which nothing refers to
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg)
    svg = re.sub(r' (?:xmlns(?::xlink)?|version)="[^"]*"', "", svg)
    svg = re.sub(r"'DejaVu Sans'[^;\"]*", "inherit", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    return svg
