"""``report.html``: one page that needs nothing else. No script, no request, light, dark and print.

The template (``page.html.j2``, ``page.css``) only lays out; every number arrives as a `words.Figure` with its origin.
Text from outside is escaped by jinja2; the drawings (`figures`) are the only markup that is let through.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from halfwatt.core.files import write_atomic
from halfwatt.evaluate.records import Window
from halfwatt.meters.base import MeterInfo
from halfwatt.results.payback import paybacks
from halfwatt.results.report import formatting
from halfwatt.results.report.figures import arm_labels, figures
from halfwatt.results.report.formatting import Figure
from halfwatt.results.result import Result
from halfwatt.results.tables import (
    Row,
    absolute_joules,
    arms,
    champion,
    delivered,
    disturbed,
    duties,
    duty_cycle,
    meter,
    rows,
)


@dataclass(frozen=True, slots=True)
class Tile:
    """One ratio of the headline."""

    ratio: Figure
    what: str  # of what it is the ratio, in words
    base: str


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
    everyone, told = rows(result), result.repaid
    about = champion(result)
    report = result.final_quality
    return {
        "r": result,
        "claim": result.claim,
        "said": result.claim.sentence,
        "facts": _facts(result),
        "asked": formatting.traffic(result.profile) if result.profile else "",
        "tiles": _tiles(result),
        "origin_line": formatting.origin_line(meter(result)),
        "table": [_table_row(row) for row in everyone],
        "energy_head": formatting.energy_unit(result.final),
        "stated": _states_joules(result),
        "tune_rows": any(row.run == "tune" and row.energy for row in everyone),
        "prices": [
            *(formatting.price(p) for p in paybacks(result)),
            *((formatting.cost_of_search(told),) if told else ()),
        ],
        "outside": [formatting.outside(met) for met in result.outside],
        "reasons": [(row.trial.name, row.trial.status, row.trial.reason) for row in everyone if row.trial.reason],
        "plots": figures(result, everyone),
        "duty": _duty_table(result),
        "duties": [f"{rate:,g}" for rate in duties(result)],
        "checks": [(c, formatting.check_figure(c), formatting.remarks(c)) for c in formatting.gate_lines(report)]
        if report
        else [],
        "report": report,
        "kept": formatting.kept(about.artifact.kept) if about.artifact else [],
        "about": about,
        "delivered": delivered(result),
        "origins": _origins(result),
        "grades": formatting.GRADES,
        "disturbed": [_disturbance(w) for w in disturbed(result)],
        "windows": _window_counts(result),
        "served": formatting.served,
        "apart": formatting.apart,
        "absent": formatting.ABSENT,
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
        Tile(formatting.times(claim.energy_ratio_vs_B1, *tag), _compared("energy", "B1", itself), "B1"),
        Tile(formatting.times(claim.energy_ratio_vs_B0, *tag), _compared("energy", "B0", False), "B0"),
        Tile(formatting.times(claim.cpu_s_ratio_vs_B1, None, None), _compared("CPU time", "B1", itself), "B1"),
        Tile(formatting.times(claim.cpu_s_ratio_vs_B0, None, None), _compared("CPU time", "B0", False), "B0"),
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
        "energy": formatting.energy(row),
        "relative": formatting.absent("the reference") if row.trial.name == "B1" else formatting.relative_energy(row),
        "cpu": formatting.cpu_ms(m),
        "tokens": formatting.measured(m.tokens_per_reply if m else None),
        "seconds": formatting.measured(m.s_per_reply if m else None),
        "mb": formatting.megabytes(artifact.size_b if artifact else None),
        "served": f"{artifact.precision}, {formatting.served(at)}" if artifact else "",
        "verdict": row.quality.verdict if row.quality else None,
    }


# --- the tables -------------------------------------------------------------------------------------------------------


def _duty_table(result: Result) -> list[tuple[str, list[Figure]]]:
    """J/reply of each arm at each of `duties`; empty without measured idle."""
    info = meter(result)
    if info is None:
        return []
    tag, labels = formatting.origin(info.grade, info.kind), arm_labels(result)
    return [
        (
            labels[line.arm],
            [
                Figure(f"{j:,.3g}" if j < 1000 else f"{j:,.0f}", "", tag, info.grade)
                if j is not None
                else formatting.absent("more than one copy serves")
                for j in line.j_per_reply
            ],
        )
        for line in duty_cycle(result)
    ]


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
