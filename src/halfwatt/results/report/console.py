"""Tables for the terminal. ``*_view`` builds what rich can print; ``show*`` prints it for the command line.

Text from outside (model names, reasons, replies) is printed as it is and never read as rich's markup.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Sequence
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from halfwatt.core.json_records import to_json
from halfwatt.evaluate.records import Measurement, QualityReport
from halfwatt.formats.artifact import Artifact
from halfwatt.meters.base import Finding
from halfwatt.results.payback import paybacks
from halfwatt.results.report import formatting
from halfwatt.results.report.formatting import Figure
from halfwatt.results.result import Comparison, Made, Measured, Result
from halfwatt.results.tables import Row, meter, rows

if TYPE_CHECKING:
    from halfwatt.results.verify import Verification
    from halfwatt.search.predict import PredictionTable

VERDICT_STYLE = {
    "PASS": "bold green",
    "FAIL": "bold red",
    "INCONCLUSIVE": "bold yellow",
    "NO PROVEN SAVING": "bold yellow",
}
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def emit(record: Any, as_json: bool, show: Callable[[], None]) -> None:
    """One record for the reader that was asked for: a JSON document, or what ``show`` prints."""
    if as_json:
        sys.stdout.write(to_json(record) + "\n")
    else:
        show()


def render_table(result: Result, out: Path = Path("out"), width: int = 80) -> str:
    """The end of ``optimize`` as plain text, ``width`` columns wide."""
    return plain(result_view(result, out), width)


def plain(view: RenderableType, width: int = 80) -> str:
    """Any view without colours."""
    buffer = StringIO()
    Console(file=buffer, width=width, color_system=None, legacy_windows=False).print(view)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


def show(result: Result, out: Path) -> None:
    """Print the table, the verdict and where the files are."""
    _print(result_view(result, out))


def show_measured(found: Measured) -> None:
    """Print what ``measure`` found."""
    _print(measured_view(found))


def show_comparison(found: Comparison) -> None:
    """Print what ``compare`` found."""
    _print(comparison_view(found))


def show_artifact(made: Artifact) -> None:
    """Print what ``quantize`` wrote."""
    _print(artifact_view(made))


def show_made(made: Made) -> None:
    """Print what a step wrote."""
    _print(made_view(made))


def show_plan(found: PredictionTable) -> None:
    """Print what ``plan`` predicts."""
    _print(plan_view(found))


def show_doctor(found: Sequence[Finding]) -> None:
    """Print the meters of this machine."""
    _print(doctor_view(found))


def show_verification(found: Verification) -> None:
    """Print what ``verify`` recomputed."""
    _print(verification_view(found))


def _print(view: RenderableType) -> None:
    console = Console()
    console.print(view)


# --- optimize ---------------------------------------------------------------------------------------------------------


def result_view(result: Result, out: Path) -> Group:
    """Table, remarks, verdict in words, files."""
    everyone, told = rows(result), result.repaid
    claim = result.claim
    return Group(
        _ladder(everyone, formatting.energy_unit(result.final)),
        *_remarks(everyone),
        *(_line((formatting.price(paid), "dim")) for paid in paybacks(result)),
        *((_line((formatting.cost_of_search(told), "dim")),) if told else ()),
        *_outside(result),
        Text(),
        _ratios(result),
        _line((claim.verdict, VERDICT_STYLE[claim.verdict]), (f": {claim.sentence}", "")),
        _line((formatting.origin_line(meter(result)), "")),
        _files(result, out),
    )


def _ladder(everyone: Sequence[Row], energy_head: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    table.add_column("model", overflow="fold", min_width=18)
    heads = (energy_head.replace(" (", "\n("), "CPU-ms\n/reply", "tokens\n/reply", "s\n/reply", "MB")
    for head in heads:
        table.add_column(head, justify="right", overflow="fold")
    table.add_column("gate", overflow="fold")
    for row in everyone:
        table.add_row(*_cells(row), style="bold" if row.winner else None)
    return table


def _cells(row: Row) -> tuple[Text, ...]:
    m, artifact = row.energy, row.trial.artifact
    name = _line((f"{'> ' if row.winner else ''}{row.trial.name}", ""), (f"\n{_about(row)}", "dim"))
    return (
        name,
        _cell(formatting.energy(row)),
        _cell(formatting.cpu_ms(m), show_origin=False),
        Text(formatting.short(m.tokens_per_reply if m else None)),
        Text(formatting.short(m.s_per_reply if m else None)),
        Text(formatting.megabytes(artifact.size_b if artifact else None)),
        _gate(row),
    )


def _about(row: Row) -> str:
    if row.title != "candidate":
        return row.title.replace(", ", ",\n")
    return "winner" if row.winner else ""


def _cell(shown: Figure, show_origin: bool = True) -> Text:
    """Value and grade above, interval below."""
    if shown.absent:
        return _line((shown.value, ""), (f"\n{shown.origin}", "dim"))
    first = f"{shown.value} {shown.origin}" if show_origin else shown.value
    return _line((first, ""), ("\n" + shown.interval.replace(" to ", formatting.DASH) if shown.interval else "", "dim"))


def _gate(row: Row) -> Text:
    if row.trial.status != "done":
        return Text(row.trial.status, style="red")
    if row.quality is None:
        return Text("reference" if row.title != "candidate" else formatting.ABSENT, style="dim")
    verdict = row.quality.verdict
    return _line((verdict, VERDICT_STYLE[verdict]), (f"\n{row.quality.split} split", "dim"))


def _remarks(everyone: Sequence[Row]) -> Iterable[Text]:
    if any(row.run == "tune" and row.energy for row in everyone):
        yield Text(
            "Rows judged on the tune split were measured in a run of their own against B1; "
            "all others together, interleaved, on the sealed test split.",
            style="dim",
        )
    for row in everyone:
        if row.trial.reason:
            yield _line((f"{row.trial.name} {row.trial.status}: {row.trial.reason}", "dim"))


def _outside(result: Result) -> Iterable[Text]:
    """What a model made for this traffic is no longer good for."""
    if result.outside:
        yield _line((f"{result.claim.about} on other kinds of dialogue, against B1:", "bold"))
    for met in result.outside:
        yield _line((f"  {formatting.outside(met)}", VERDICT_STYLE[met.quality.verdict].removeprefix("bold ")))


def _ratios(result: Result) -> Text:
    """The headline; ratios of a refused candidate are called measured, not claimed."""
    claim = result.claim
    pairs = (
        ("energy", claim.energy_ratio_vs_B1, claim.energy_ratio_vs_B0, claim.grade),
        ("CPU time", claim.cpu_s_ratio_vs_B1, claim.cpu_s_ratio_vs_B0, None),
    )
    text = Text()
    for name, vs_b1, vs_b0, grade in pairs:
        b1, b0 = formatting.times(vs_b1, grade, claim.kind), formatting.times(vs_b0, grade, claim.kind)
        text.append(f"{name:<9} B1 / {claim.about}  {b1.line}\n          B0 / {claim.about}  {b0.line}\n")
    if claim.verdict != "PASS":
        text.append("These ratios were measured; they are not claimed as a saving.\n", style="dim")
    return text


def _files(result: Result, out: Path) -> Text:
    lines = [("model", out / result.winner_path), ("result", out / "result.json"), ("report", out / "report.html")]
    return _line(*((f"{name:<7} {_clean(str(path))}\n", "") for name, path in lines))


# --- the other verbs --------------------------------------------------------------------------------------------------


def measured_view(found: Measured) -> Group:
    """What one model uses per reply."""
    info = next((i for i in found.meters if i.name == found.measurement.meter), None)
    return Group(
        _figures((found.measurement,)),
        _line((formatting.origin_line(info), "")),
        Text(formatting.served(found.at) + f", {found.artifact.precision}"),
        *(Text(_clean(note), style="dim") for note in found.notes),
    )


def comparison_view(found: Comparison) -> Group:
    """Two models side by side, their ratios, and the gate."""
    info = next((i for i in found.meters if i.name == found.measurements[0].meter), None)
    grade, kind = (info.grade, info.kind) if info else (None, None)
    verdict = found.quality.verdict
    return Group(
        _figures(found.measurements),
        _line((f"energy    A / B  {formatting.times(found.energy_ratio, grade, kind).line}", "")),
        _line((f"CPU time  A / B  {formatting.times(found.cpu_s_ratio, None, None).line}", "")),
        _line((formatting.origin_line(info), "")),
        gate_view(found.quality),
        _line((verdict, VERDICT_STYLE[verdict]), (f": B against A on {found.quality.dialogues} dialogues", "")),
        *(Text(_clean(note), style="dim") for note in found.notes),
    )


def gate_view(report: QualityReport) -> Table:
    """Every check of the gate: estimate, interval, margin, verdict."""
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    for head in ("gate", "check", "estimate, 95 % bounds", "margin", "verdict"):
        table.add_column(head, overflow="fold")
    for check in formatting.gate_lines(report):
        shown, remark = formatting.check_figure(check), formatting.remarks(check)
        table.add_row(
            check.layer,
            _line((check.name, ""), (f"\n{remark}" if remark else "", "dim")),
            Text(formatting.ABSENT if shown.absent else shown.line),
            Text(check.margin),
            Text(check.verdict, style=VERDICT_STYLE[check.verdict]),
        )
    return table


def made_view(made: Made) -> RenderableType:
    """How a model folder was made, and what that took."""
    before, after = made.parameters
    lines = [f"[b]{made.path}[/b]  {after / 1e6:.2f}M parameters, {after / before:.0%} of {before / 1e6:.2f}M"]
    lines += [f"  {line}" for line in made.lineage]
    for spent in made.spent:
        energy = "energy not measured" if spent.joules is None else f"{spent.joules:,.0f} J by {spent.meter}"
        here = spent.device in (None, "cpu")
        time = f"{spent.cpu_s:,.0f} CPU-s" if here else f"{spent.wall_s:,.0f} s on {spent.device}"
        lines.append(f"  training took {spent.tokens:,} tokens, {time}, {energy}")
    return "\n".join(lines)


def artifact_view(made: Artifact) -> Group:
    """What was written, and what stayed at higher precision."""
    return Group(
        _line((f"{made.path}: {made.precision}, {formatting.megabytes(made.size_b)} MB, for {made.runtime}", "")),
        *(_line((line, "dim")) for line in formatting.kept(made.kept)),
    )


def doctor_view(found: Sequence[Finding]) -> Group:
    """The meters of this machine, what would enable the others, and what may be set by hand."""
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    for head in ("meter", "grade", "here", "covers, or why not"):
        table.add_column(head, overflow="fold")
    for f in found:
        here = Text("yes", style="green") if f.available else Text("no", style="dim")
        table.add_row(_line((f.name, "")), f.grade, here, _line((f.covers if f.available else f.reason or "", "")))
    advice = [_line((f"{f.name}: {f.advice}", "")) for f in found if f.advice]
    return Group(table, *advice)


def verification_view(found: Verification) -> Group:
    """Figures that could not be made again from the raw readings."""
    if not found.differences:
        return Group(
            Text(
                f"all {found.figures} figures follow from the raw readings "
                f"({found.windows} windows, {found.replies} replies)",
                style="green",
            )
        )
    return Group(
        Text(f"{len(found.differences)} of {found.figures} figures do not follow from the raw readings", style="red"),
        *(_line((f"  {d.where}: stored {d.stored}, recomputed {d.recomputed}", "")) for d in found.differences),
    )


def plan_view(found: PredictionTable) -> Group:
    """Devices down, recipes across; the error, which is one factor for all of a kind, in words below."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    table.add_column("energy, original f16 over it", overflow="fold")
    names = [name for name in found.read_b if name != "original"]
    for name in names:
        table.add_column(_line((name, "")), justify="right", overflow="fold")
    for hardware in dict.fromkeys(p.hardware for p in found.predictions):
        cells = [f"{p.energy_ratio.mean:.2f}x" for p in found.predictions if p.hardware == hardware]
        table.add_row(hardware.name, *cells)
    table.add_section()
    table.add_row("MB of weights a token", *(formatting.megabytes(found.read_b[name]) for name in names))
    exchange = found.exchange
    told = f"{exchange.fresh:.0f} new tokens of prompt and {exchange.reply:.0f} of reply, {found.batch} at a time"
    return Group(
        table,
        Text(f"a reply is {told}; {formatting.megabytes(found.read_b['original'])} MB a token as f16"),
        *(Text(line) for line in formatting.plan_errors(found)),
    )


def _figures(measurements: Sequence[Measurement]) -> Table:
    """One column per arm, one line per figure."""
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    table.add_column("per reply")
    for m in measurements:
        table.add_column(_line((m.arm, "")), justify="right", overflow="fold")
    lines = {
        "energy, J": [formatting.joules(m) for m in measurements],
        "net of idle, J": [formatting.joules(m, net=True) for m in measurements],
        "CPU-ms": [formatting.cpu_ms(m) for m in measurements],
        "tokens": [formatting.measured(m.tokens_per_reply) for m in measurements],
        "seconds": [formatting.measured(m.s_per_reply) for m in measurements],
    }
    for name, cells in lines.items():
        table.add_row(name, *(_line((cell.line, "")) for cell in cells))
    return table


def _line(*parts: tuple[str, str]) -> Text:
    return Text.assemble(*((_clean(text), style) for text, style in parts))


def _clean(text: str) -> str:
    """Without control characters, which a terminal would obey."""
    return _CONTROL.sub("\ufffd", text)
