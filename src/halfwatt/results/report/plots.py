"""The plots of the page: matplotlib's SVG, inline, in the colours of the page.

Every plot is drawn once with marker colours, each of which becomes a CSS variable, so that light, dark and print are
the page's own business. Text stays text: it takes the page's font and can be searched and selected.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from itertools import accumulate
from textwrap import wrap
from typing import Any

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from halfwatt.core.estimate import Estimate
from halfwatt.formats.artifact import Part
from halfwatt.results.payback import Ledger
from halfwatt.results.report import formatting
from halfwatt.results.tables import Duty, Phases, Point

# Colours that no plot would use by itself, each for one variable of the page.
INK, MUTED, GRID, B0, B1, WINNER, OTHER, BAD = (f"#0{i}0{i}0{i}" for i in range(1, 9))
_VARIABLES = ("--ink", "--muted", "--line", "--b0", "--b1", "--winner", "--other", "--bad")
ARM_COLOURS = {"B0": B0, "B1": B1, "winner": WINNER}
_LINE = 17  # letters of a name on one line
_WIDTH = 420  # units of the SVG; about one CSS pixel on a phone
_STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 12,
    **{f"axes.spines.{side}": False for side in ("top", "right", "left")},
    **dict.fromkeys(("axes.grid", "axes.axisbelow"), True),
    **dict.fromkeys(("axes.edgecolor", "grid.color"), GRID),
    **dict.fromkeys(("axes.labelcolor", "xtick.color", "ytick.color"), MUTED),
    "text.color": INK,
    "grid.linewidth": 0.8,
    **{f"{axis}tick.{kind}.size": 0 for axis in "xy" for kind in ("major", "minor")},
}


@dataclass(frozen=True, slots=True)
class Mark:
    """One row of a ladder, or with ``y`` one point between cost (share of B1) and loss (nats per token)."""

    label: str
    colour: str
    hollow: bool  # measured in a run of its own
    x: Estimate
    y: Estimate | None = None

    @property
    def text_style(self) -> dict[str, Any]:
        """Of its label."""
        bold = "bold" if self.colour == WINNER else "normal"
        return {"color": self.colour if self.colour != OTHER else MUTED, "fontweight": bold}


def ladder(marks: Sequence[Mark], unit: str) -> Markup:
    """Each mark's share of what B1 takes with its interval, on a log axis with a line at B1's 1."""
    names = [_folded(mark.label) for mark in marks]
    with _canvas(60 + max(34, 8 + 15 * _line_count(names)) * len(marks)) as (canvas, axes):
        for row, mark in enumerate(marks):
            _draw(axes, mark, row, elinewidth=2, markersize=8)
            _note(axes, formatting.figure(mark.x).value, (mark.x.mean, row), (0, 8), ha="center", **mark.text_style)
        _name_rows(axes, names, 0.5, -0.8)
        axes.axvline(1.0, color=B1, linewidth=1.2)
        _note(axes, "B1", (1.0, -0.75), (4, -4), color=B1, va="top")
        _log_x(axes, [Estimate(1, 1, 1, "", 0), *(mark.x for mark in marks)])
        axes.set_xlabel(unit)
        return _svg(canvas, f"ladder {unit}")


def quality(marks: Sequence[Mark], margin: float, cost_unit: str) -> Markup:
    """Loss against cost; above the dashed line is worse than the margin allows."""
    everyone = [*marks, Mark("B1", B1, False, Estimate(1, 1, 1, "", 0), Estimate(0, 0, 0, "", 0))]
    losses = [mark.y for mark in everyone if mark.y is not None]
    with _canvas(280, right=0.71) as (canvas, axes):
        axes.axhline(0, color=MUTED, linewidth=0.8)
        axes.axhline(margin, color=BAD, linewidth=1.4, linestyle=(0, (5, 3)))
        for mark, loss in zip(everyone, losses, strict=True):
            _draw(axes, mark, loss.mean, yerr=_bar(loss), elinewidth=1.4, markersize=7)
        _log_x(axes, [mark.x for mark in everyone])
        low, high = min(e.lo for e in losses), max(margin, *(e.hi for e in losses))
        room = (high - low) * 0.12
        axes.set(ylim=(low - room, high + room), xlabel=cost_unit, ylabel="loss, nats per token")
        _name_at_right(axes, everyone)
        _note(axes, f"margin {margin:.4f}", (0, margin), (4, 5), xycoords=("axes fraction", "data"), color=BAD)
        return _svg(canvas, "quality")


def split(arm_phases: Sequence[Phases], labels: Mapping[str, str]) -> Markup:
    """Prefill and decode as shares of each arm's reply, labelled with their size."""
    scale, unit = (1.0, "J") if arm_phases[0].unit == "J" else (1000.0, "ms")
    names = [_folded(labels[phase.arm]) for phase in arm_phases]
    with _canvas(60 + max(44, 8 + 15 * _line_count(names)) * len(names)) as (canvas, axes):
        for row, phase in enumerate(arm_phases):
            whole, left = phase.prefill.mean + phase.decode.mean, 0.0
            for part, alpha in ((phase.prefill, 0.35), (phase.decode, 0.85)):
                share = part.mean / whole * 100
                axes.barh(row, share, left=left, height=0.42, color=ARM_COLOURS[phase.arm], alpha=alpha)
                size = f"{formatting.figure(part, scale=scale).value} {unit}"
                _note(axes, size, (left + share / 2, row - 0.23), (0, 3), ha="center")
                left += share
        _name_rows(axes, names, 0.55, -0.75)
        axes.set(xlim=(0, 100), xlabel="% of the reply: pale = prefill, full = decode")
        return _svg(canvas, "split")


def reading(parts: Sequence[Part]) -> Markup:
    """Bytes that a decode step reads, part by part."""
    with _canvas(60 + 26 * len(parts)) as (canvas, axes):
        read_kb = [part.read_b / 1e3 for part in parts]
        axes.barh(range(len(parts)), read_kb, height=0.55, color=WINNER, alpha=0.85)
        for row, (part, kb) in enumerate(zip(parts, read_kb, strict=True)):
            _note(axes, f"{part.precision}, {kb:,.0f} kB", (kb, row), (4, 0), va="center")
        _name_rows(axes, [part.name for part in parts], 0.5, -0.5)
        axes.set(xlim=(0, 1.55 * max(read_kb)), xlabel="kB of weights read for each token")
        axes.xaxis.set_major_locator(MaxNLocator(4))
        return _svg(canvas, "parts")


def heat(shares: Mapping[tuple[str, str], float], across: str) -> Markup:
    """A share in every cell that was tried, (row, column) -> share; the darker the cheaper, the best one framed."""
    rows, columns = (list(dict.fromkeys(key[k] for key in shares)) for k in (0, 1))
    best, worst = min(shares.values()), max(shares.values())
    with _canvas(70 + 34 * len(rows)) as (canvas, axes):
        for (row, column), share in shares.items():
            dark = 0.85 - 0.7 * math.log(share / best) / max(1e-9, math.log(worst / best))
            x, y = columns.index(column), rows.index(row)
            edge = {"edgecolor": INK, "linewidth": 1.6} if share == best else {"linewidth": 0}
            axes.add_patch(Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, facecolor=WINNER, alpha=dark, **edge))
            axes.text(x, y, f"{share:.2f}", ha="center", va="center")
        axes.set_xticks(range(len(columns)), columns)
        axes.set_yticks(range(len(rows)), rows)
        axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5), xlabel=across)
        axes.grid(visible=False)
        return _svg(canvas, "heat")


def duty(lines: Sequence[Duty], rates: Sequence[float], labels: Mapping[str, str]) -> Markup:
    """J/reply over replies per hour, loaded idle included; dotted: the reply alone. Both axes are logarithmic."""
    with _canvas(270, right=0.85) as (canvas, axes):
        for line in lines:
            colour = ARM_COLOURS[line.arm]
            known = [(rate, j) for rate, j in zip(rates, line.j_per_reply, strict=True) if j is not None]
            axes.plot(*zip(*known, strict=True), "o-", color=colour, markersize=5, linewidth=1.6)
            axes.axhline(line.net_j, color=colour, linewidth=1.4, linestyle=(0, (1, 2)))
        axes.set(xscale="log", yscale="log", xlabel="replies per hour", ylabel="J per reply")
        axes.set_xticks(rates, [f"{rate:,g}" for rate in rates])
        axes.yaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_ylim(bottom=min(line.net_j for line in lines) / 2)
        low, high = (math.log(y) for y in axes.get_ylim())
        lines = sorted(lines, key=lambda line: line.net_j)
        names = [_folded(labels[line.arm]) for line in lines]
        heights = _spread([(math.log(line.net_j) - low) / (high - low) for line in lines], names)
        for line, name, y in zip(lines, names, heights, strict=True):
            axes.text(1.03, y, name, transform=axes.transAxes, va="center", color=ARM_COLOURS[line.arm])
        return _svg(canvas, "duty")


def break_even(ledger: Ledger, base: Estimate, own: Estimate, replies: Estimate) -> Markup:
    """CPU-seconds of all replies so far, B1's from nothing, the candidate's from what finding it took.

    base, own: CPU-seconds a reply, with their intervals as bands; replies: where the lines meet
    """
    with _canvas(250, right=0.9) as (canvas, axes):
        until = 2 * replies.mean
        for start, e, colour, label in ((0.0, base, B1, "B1"), (ledger.spent_s, own, WINNER, "found")):
            low, mean, high = ([start, start + slope * until] for slope in (e.lo, e.mean, e.hi))
            axes.fill_between([0, until], low, high, color=colour, alpha=0.25, lw=0)
            axes.plot([0, until], mean, color=colour, linewidth=1.8)
            _note(axes, label, (until, mean[1]), (5, 0), color=colour, va="center")
        at = base.mean * replies.mean
        axes.errorbar(replies.mean, at, xerr=_bar(replies), fmt="o", color=INK, markersize=6, elinewidth=1.6)
        _note(axes, "repaid", (replies.mean, at), (8, -14))
        axes.set(xlim=(0, until), ylim=(0, None), xlabel="replies", ylabel="CPU-s in all")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(5))
            axis.set_major_formatter("{x:,.0f}")
        return _svg(canvas, "break-even")


def timeline(points: Mapping[str, Sequence[Point]], labels: Mapping[str, str]) -> Markup:
    """Every window as a deviation from its arm's mean, so that drift shows; crosses were discarded."""
    lines = {arm: line for arm, line in points.items() if arm in ARM_COLOURS}
    limit = max(2.0, *(1.25 * abs(p.share - 1) * 100 for line in lines.values() for p in line if not p.discarded))
    with rc_context(_STYLE):
        height = 48 + 84 * len(lines)
        canvas = Canvas(figsize=(_WIDTH / 72, height / 72))
        canvas.subplots_adjust(left=0.12, right=0.99, top=1 - 20 / height, bottom=44 / height, hspace=0.5)
        panels = canvas.subplots(len(lines), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
        for axes, (arm, line) in zip(panels, lines.items(), strict=True):
            _deviations(axes, line, ARM_COLOURS[arm], limit)
            axes.set_title(labels[arm], loc="left", fontsize=12, color=ARM_COLOURS[arm], pad=2)
        panels[-1].set_xlabel("minutes into the run")
        return _svg(canvas, "timeline")


def _deviations(axes: Axes, points: Sequence[Point], colour: str, limit: float) -> None:
    """Per cent from the mean; what lies beyond ``limit`` is marked at the edge."""
    clean, discarded = ([p for p in points if p.discarded is bad] for bad in (False, True))
    edge = [max(-limit, min(limit, (p.share - 1) * 100)) for p in discarded]
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.plot([p.minute for p in clean], [(p.share - 1) * 100 for p in clean], "o-", color=colour, ms=4, lw=0.9)
    axes.plot([p.minute for p in discarded], edge, "x", color=BAD, ms=6, mew=1.6, clip_on=False)
    axes.set_ylim(-limit, limit)
    axes.yaxis.set_major_locator(MaxNLocator(5, symmetric=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %".replace("-", "\N{MINUS SIGN}")))


def _folded(label: str) -> str:
    """A name on a few short lines; a plot has no room for a long one."""
    return "\n".join(wrap(label, _LINE, max_lines=3, placeholder=" …"))


def _line_count(names: Sequence[str]) -> int:
    return max(name.count("\n") + 1 for name in names)


def _name_rows(axes: Axes, names: Sequence[str], below: float, top: float) -> None:
    """Names at the left of rows 0, 1, ... from the top, with no grid between the rows."""
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", labelcolor=INK)
    axes.set_ylim(len(names) - below, top)
    axes.grid(axis="y", visible=False)


def _name_at_right(axes: Axes, marks: Sequence[Mark]) -> None:
    """Names beside the plot, each with a line to its mark."""
    low, high = axes.get_ylim()
    points = sorted(((mark.y.mean, mark) for mark in marks if mark.y is not None), key=lambda point: point[0])
    names = [_folded(mark.label) for _, mark in points]
    heights = _spread([(y - low) / (high - low) for y, _ in points], names)
    for (y, mark), name, height in zip(points, names, heights, strict=True):
        arrow = {"arrowstyle": "-", "color": GRID, "linewidth": 0.8}
        place: Any = {"xytext": (1.03, height), "textcoords": "axes fraction", "va": "center"}
        text = axes.annotate(name, (mark.x.mean, y), arrowprops=arrow, **place, **mark.text_style)
        text.set_in_layout(False)


def _spread(heights: Sequence[float], names: Sequence[str]) -> list[float]:
    """Rising heights, moved up where two of these names would overlap."""
    gap = 0.075 * _line_count(names)  # of the plot's height
    return list(accumulate(heights, lambda below, height: max(height, below + gap)))


def _draw(axes: Axes, mark: Mark, y: float, **style: Any) -> None:
    face = "none" if mark.hollow else mark.colour
    axes.errorbar(mark.x.mean, y, xerr=_bar(mark.x), fmt="o", color=mark.colour, markerfacecolor=face, **style)


def _bar(e: Estimate) -> list[list[float]]:
    return [[e.mean - e.lo], [e.hi - e.mean]]


def _note(axes: Axes, text: str, at: tuple[float, float], offset: tuple[float, float], **style: Any) -> None:
    """Text ``offset`` points beside a place."""
    axes.annotate(text, at, xytext=offset, textcoords="offset points", **style)


@contextmanager
def _canvas(height: int, right: float = 1.0) -> Iterator[tuple[Canvas, Axes]]:
    """A styled canvas of ``height`` units with one pair of axes, which keep left of ``right``."""
    with rc_context(_STYLE):
        layout = ConstrainedLayoutEngine(rect=(0, 0, right, 1))
        canvas = Canvas(figsize=(_WIDTH / 72, height / 72), layout=layout)
        yield canvas, canvas.subplots()


def _log_x(axes: Axes, estimates: Sequence[Estimate]) -> None:
    axes.set_xscale("log")
    ends = [x for e in estimates for x in (e.lo, e.mean, e.hi) if x > 0]  # an interval down to 0 runs off the edge
    low, high = min(ends), max(ends)
    room = max((high / low) ** 0.12, 1.15)
    axes.set_xlim(low / room, high * room)
    steps = (1.0, 2.0, 5.0) if high / low > 6 else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
    axes.xaxis.set_major_locator(LogLocator(subs=steps, numticks=12))  # 1, 2, 5, 10 instead of powers of ten
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def _svg(canvas: Canvas, name: str) -> Markup:
    """The figure as one inline ``<svg>``: no prologue, no metadata, ids of its own, colours from the page."""
    buffer = StringIO()
    with rc_context({"svg.hashsalt": name}):
        canvas.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = re.sub(r"^.*?(?=<svg)|<metadata>.*?</metadata>", "", buffer.getvalue(), flags=re.DOTALL)
    svg = re.sub(r' id="[\w.]+_\d+"', "", svg)  # "axes_1" and the like, which nothing refers to
    svg = re.sub(
        r' (?:(?:width|height)="[\d.]+pt"|(?:xmlns(?::xlink)?|version)="[^"]*")', "", svg
    )  # the page has these
    svg = re.sub(r"'DejaVu Sans'[^;\"]*", "inherit", svg)
    for colour, variable in zip((INK, MUTED, GRID, B0, B1, WINNER, OTHER, BAD), _VARIABLES, strict=True):
        svg = svg.replace(colour, f"var({variable})")
    return Markup(svg)
