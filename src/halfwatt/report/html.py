"""``report.html``: one page that needs nothing else. No script, no request, light, dark and print.

The template (``page.html.j2``, ``page.css``) only lays out; every number arrives as a `words.Figure` with its origin.
Text from outside is escaped by jinja2; the plots are drawn here and are the only markup that is let through.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from halfwatt.files import write_atomic
from halfwatt.quality import likelihood_check
from halfwatt.records import MeterInfo, Window
from halfwatt.repaid import Payback, paybacks
from halfwatt.report import plots, words
from halfwatt.report.plots import Rung, Spot
from halfwatt.report.words import Figure
from halfwatt.result import (
    DUTIES,
    Result,
    Row,
    absolute_joules,
    arms,
    champion,
    delivered,
    disturbed,
    duty_cycle,
    idle_watts,
    meter,
    phases,
    rows,
    timeline,
)


@dataclass(frozen=True, slots=True)
class Tile:
    """One ratio of the headline."""

    ratio: Figure
    what: str  # of what it is the ratio, in words
    base: str


@dataclass(frozen=True, slots=True)
class Plot:
    """A drawing with what it shows and where its numbers come from."""

    title: str
    svg: Markup | None  # None: nothing to draw, and the caption says why
    caption: str
    origin: str


def write_html(result: Result, to: Path) -> None:
    """Write the page to the file ``to``."""
    write_atomic(to, render_html(result).encode())


def render_html(result: Result) -> str:
    """The page as text."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(**_context(result))


def _context(result: Result) -> dict[str, Any]:
    everyone, paid = rows(result), paybacks(result)
    about = champion(result)
    report = result.final_quality
    return {
        "r": result,
        "claim": result.claim,
        "said": result.claim.sentence,
        "facts": _facts(result),
        "tiles": _tiles(result),
        "origin_line": words.origin_line(meter(result)),
        "table": [_table_row(row) for row in everyone],
        "energy_head": words.energy_unit(result.final),
        "stated": _states_joules(result),
        "tune_rows": any(row.run == "tune" and row.energy for row in everyone),
        "prices": [words.price(p) for p in paid],
        "outside": [words.outside(met) for met in result.outside],
        "reasons": [(row.trial.name, row.trial.status, row.trial.reason) for row in everyone if row.trial.reason],
        "plots": _plots(result, everyone, paid),
        "duty": _duty_table(result),
        "duties": DUTIES,
        "checks": [(c, words.check_figure(c), words.remarks(c)) for c in words.gate_lines(report)] if report else [],
        "report": report,
        "kept": words.kept(about.artifact.kept) if about.artifact else [],
        "about": about,
        "delivered": delivered(result),
        "origins": _origins(result),
        "grades": words.GRADES,
        "disturbed": [_disturbance(w) for w in disturbed(result)],
        "windows": _window_counts(result),
        "served": words.served,
        "apart": words.apart,
        "absent": words.ABSENT,
    }


def _facts(result: Result) -> str:
    """Device and size of the evidence in one line."""
    machine, counts, report = result.provenance.machine, _window_counts(result), result.final_quality
    known = [machine.get("cpu"), f"{machine['cores']} cores" if "cores" in machine else None]
    known += [f"{report.dialogues} dialogues of the {report.split} split" if report else None]
    known += [f"{counts['blocks']} interleaved blocks", f"seed {result.provenance.seed}"]
    return " · ".join(part for part in known if part)


def _tiles(result: Result) -> list[Tile]:
    claim = result.claim
    tag = (claim.grade, claim.kind)
    itself = claim.about == "B1"
    return [
        Tile(words.times(claim.energy_ratio_vs_B1, *tag), _compared("energy", "B1", itself), "B1"),
        Tile(words.times(claim.energy_ratio_vs_B0, *tag), _compared("energy", "B0", False), "B0"),
        Tile(words.times(claim.cpu_s_ratio_vs_B1, None, None), _compared("CPU time", "B1", itself), "B1"),
        Tile(words.times(claim.cpu_s_ratio_vs_B0, None, None), _compared("CPU time", "B0", False), "B0"),
    ]


def _compared(what: str, base: str, itself: bool) -> str:
    if itself:
        return f"{what} of {base} over {what} of {base} again: the bench's own error"
    return f"less {what} than the original {'in its best runtime' if base == 'B1' else 'as commonly run'} ({base})"


def _states_joules(result: Result) -> bool:
    return any(absolute_joules(m) is not None for m in result.final)


def _table_row(row: Row) -> dict[str, Any]:
    m, artifact, at = row.energy, row.trial.artifact, row.trial.at
    return {
        "row": row,
        "energy": words.energy(row),
        "relative": words.absent("the reference") if row.trial.name == "B1" else words.relative_energy(row),
        "cpu": words.cpu_ms(m),
        "tokens": words.measured(m.tokens_per_reply if m else None),
        "seconds": words.measured(m.s_per_reply if m else None),
        "mb": words.megabytes(artifact.size_b if artifact else None),
        "served": f"{artifact.precision}, {words.served(at)}" if artifact else "",
        "verdict": row.quality.verdict if row.quality else None,
    }


# --- the plots --------------------------------------------------------------------------------------------------------


def _plots(result: Result, everyone: tuple[Row, ...], paid: tuple[Payback, ...]) -> list[Plot]:
    found = [_cpu_ladder(everyone), _energy_ladder(result, everyone), _quality(result, everyone)]
    return [*found, _split(result), _timeline(result), _duty(result), *_break_even(paid, result.claim.about)]


def _nothing(title: str, why: str) -> Plot:
    return Plot(title, None, f"{words.ABSENT} not shown: {why}.", "absent")


def _cpu_ladder(everyone: tuple[Row, ...]) -> Plot:
    rungs = [_rung(row, row.energy.cpu_s_per_reply) for row in everyone if row.energy]
    return Plot(
        "CPU time per reply",
        Markup(plots.ladder(rungs, "CPU-ms per reply (log scale)", scale=1000)),
        "Filled: the final run, all interleaved. Hollow: a run of its own against B1, on the tune split.",
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
        Markup(plots.ladder(rungs, "share of B1's energy (log scale)", reference=1.0)),
        f"1 = the original in its best runtime. {_meter_error(info)}",
        words.origin_line(info),
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
        "loss measured per dialogue; " + (f"energy {words.origin(info.grade, info.kind)}" if info else "CPU measured"),
    )


def _spot(row: Row) -> Spot | None:
    check, cost = likelihood_check(row.quality), row.energy_vs_B1 or row.cpu_s_vs_B1
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
        Markup(plots.split(found, _labels(result))),
        "Prefill reads the prompt (its own windows, one token out); decode, the difference, writes the reply.",
        words.origin_line(info) if stated else "CPU time measured by the operating system",
    )


def _duty(result: Result) -> Plot:
    title = "Light use: joules per reply with idle"
    lines, watts, info = duty_cycle(result), idle_watts(result), meter(result)
    if not lines or watts is None or info is None:
        return _nothing(title, _why_no_idle(info))
    return Plot(
        title,
        Markup(plots.duty(lines, _labels(result))),
        f"Solid: the reply plus {watts:.3g} W of loaded idle until the next one (all models of the run were resident). "
        "Dotted: the reply alone, net of idle.",
        words.origin_line(info),
    )


def _break_even(paid: tuple[Payback, ...], about: str) -> list[Plot]:
    """Of the candidate that the claim is about, where it was trained and its training is repaid."""
    own = next((p for p in paid if p.trial == about), None)
    if own is None or own.cpu_s is None or own.replies_by_cpu_s is None:
        return []
    drawn = plots.break_even(own.cpu_s, *own.cpu_s_per_reply, own.replies_by_cpu_s)
    said = f"All replies so far; {about} begins with the {own.cpu_s:,.0f} CPU-seconds that its training took."
    return [Plot("When training is repaid", Markup(drawn), said, "CPU time measured by the operating system")]


def _timeline(result: Result) -> Plot:
    title, points = "Was the machine quiet?", timeline(result)
    if not points:
        return _nothing(title, "no windows were kept")
    return Plot(
        title,
        Markup(plots.timeline({a: list(p) for a, p in points.items()}, _labels(result))),
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


def _labels(result: Result) -> dict[str, str]:
    about = result.claim.about
    return {"B0": "B0", "B1": "B1", "winner": "B1, again" if about == "B1" else about}


# --- the tables -------------------------------------------------------------------------------------------------------


def _duty_table(result: Result) -> list[tuple[str, list[Figure]]]:
    """J/reply of each arm at each of `DUTIES`; empty without measured idle."""
    info = meter(result)
    if info is None:
        return []
    tag, labels = words.origin(info.grade, info.kind), _labels(result)
    return [
        (
            labels[line.arm],
            [
                Figure(f"{j:,.3g}" if j < 1000 else f"{j:,.0f}", "", tag, info.grade)
                if j is not None
                else words.absent("more than one copy serves")
                for j in line.j_per_reply
            ],
        )
        for line in duty_cycle(result)
    ]


def _why_no_idle(info: MeterInfo | None) -> str:
    if info is None:
        return "there is no energy number without a meter"
    return "a model has no idle to read" if info.kind == "modelled" else "loaded idle was not measured"


def _origins(result: Result) -> list[dict[str, str]]:
    """Every kind of number on the page: how it was obtained, and its grade."""
    info = meter(result)
    found = [_energy_origin(info)]
    found += [
        _origin("CPU-s per reply", "measured", "counted by the operating system for the process under test", "F"),
        _origin("seconds per reply", "measured", "monotonic clock around whole replies", "F"),
        _origin("tokens per reply", "measured", "counted by the runtime, end-of-turn token included", "F"),
        _origin("MB", "measured", "bytes of the weights on disk", "F"),
        _origin("gate figures", "measured", "scores and replies of the artifact in the runtime that serves it", "F"),
    ]
    others = [m for m in result.meters if info is None or m.name != info.name]
    return found + [_energy_origin(m) | {"what": f"also read: {m.name}"} for m in others]


def _energy_origin(info: MeterInfo | None) -> dict[str, str]:
    if info is None:
        return _origin("energy", "absent", "no meter, and no model for this device", "F")
    how = f"{info.name}, {info.domain}. Covers {info.covers}. Not covered: {info.not_covered}."
    if info.ratio_error:
        how += f" Error of a ratio: {info.ratio_error:.0%}."
    return _origin("energy", info.kind, how, info.grade)


def _origin(what: str, kind: str, how: str, grade: str) -> dict[str, str]:
    return {"what": what, "kind": kind, "how": how, "grade": grade}


def _disturbance(w: Window) -> dict[str, str]:
    return {
        "what": f"{w.arm} block {w.block + 1}, {w.phase}" if w.arm else w.phase.replace("_", " "),
        "why": "; ".join(w.taints),
        "kept": "discarded" if w.discarded else "kept",
    }


def _window_counts(result: Result) -> dict[str, int]:
    windows = result.raw.windows
    return {
        "all": len(windows),
        "discarded": sum(w.discarded for w in windows),
        "blocks": len({w.block for w in windows if w.phase == "reply"}),
        "replies": sum(w.replies for w in windows if w.phase == "reply" and not w.discarded),
        "arms": len(arms(result)),
    }
