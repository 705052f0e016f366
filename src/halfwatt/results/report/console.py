"""Tables for the terminal. ``*_view`` builds what rich can print; `emit` prints it, or the record as JSON.

Text from outside (model names, reasons, replies) is never read as rich's markup.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from halfwatt.core.json_records import to_json
from halfwatt.evaluate.gate import both_hold
from halfwatt.evaluate.records import Measurement, Outside, QualityReport
from halfwatt.formats.artifact import Artifact
from halfwatt.meters.base import Finding
from halfwatt.results.report import formatting
from halfwatt.results.report.formatting import Figure
from halfwatt.results.result import Comparison, Measured, Result, TransformedModel
from halfwatt.results.tables import Row, explained, meter, meter_of, rows

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

Record = TypeVar("Record")


def emit(record: Record, view: Callable[[Record], RenderableType], as_json: bool) -> None:
    """One record for the reader that was asked for: a JSON document, or its view for people."""
    if as_json:
        sys.stdout.write(to_json(record) + "\n")
    else:
        Console().print(view(record))


def result_view(result: Result, out: Path) -> Group:
    """Table, remarks, verdict in words, files."""
    everyone, about = rows(result), result.claim.about
    reasons = (f"{trial.name} {trial.status}: {trial.reason}" for trial in result.trials if trial.reason)
    taught, payback = formatting.plan_lines(result), formatting.payback_lines(result)
    remarks = (formatting.run_remark(everyone), *taught, *reasons, *payback)
    files = {"model": result.winner_path, "result": "result.json", "report": "report.html"}
    return Group(
        _rows_table(everyone, formatting.energy_unit(result.final)),
        *(_text(remark, "dim") for remark in remarks if remark),
        *([_text(f"{about} on other kinds of dialogue, against B1:", "bold")] if result.outside else ()),
        *map(_outside, result.outside),
        *(map(_text, formatting.mixed_lines(result.mixed)) if result.mixed else ()),
        Text(),
        _ratios(result),
        _verdict(result.claim.verdict, result.claim.sentence),
        _text(formatting.origin_line(meter(result))),
        *(_text(f"{name:<7} {out / file}") for name, file in files.items()),
    )


def _rows_table(everyone: Sequence[Row], energy_unit: str) -> Table:
    numbers = (energy_unit.replace(" (", "\n("), "CPU-ms\n/reply", "tokens\n/reply", "s\n/reply", "MB")
    table = _table("model", *numbers, "gate", right=slice(1, -1))
    table.columns[0].min_width = 18
    for row in everyone:
        artifact, energy, unit = row.trial.artifact, formatting.energy(row), formatting.per_reply(row.trial.energy)
        about = row.title.replace(", ", ",\n")
        if row.title == "candidate":
            about = "winner" if row.winner else ""
        table.add_row(
            _stacked(f"{'> ' * row.winner}{row.trial.name}", about),
            _number_cell(energy, f"{energy.value} {energy.origin}"),
            _number_cell(unit["CPU-ms"], unit["CPU-ms"].value),
            unit["tokens"].value,
            unit["seconds"].value,
            formatting.megabytes(artifact.size_b if artifact else None),
            _gate_cell(row),
            style="bold" if row.winner else None,
        )
    return table


def _number_cell(figure: Figure, value: str) -> Text:
    """A value above its interval, or why there is none."""
    if figure.absent:
        return _stacked(figure.value, figure.origin)
    return _stacked(value, figure.interval.replace(" to ", formatting.DASH))


def _gate_cell(row: Row) -> Text:
    if row.trial.status != "done":
        return Text(row.trial.status, style="red")
    if (quality := row.trial.quality) is None:
        return Text("reference" if row.title != "candidate" else formatting.ABSENT, style="dim")
    verdict, mixed = both_hold(quality, row.trial.mixed), row.trial.mixed
    where = f"{quality.split} split" + (", both kinds" if mixed else "")
    return _stacked(verdict, where, VERDICT_STYLE[verdict])


def _outside(outside: Outside) -> Text:
    style = VERDICT_STYLE[outside.quality.verdict].removeprefix("bold ")
    return _text(f"  {formatting.outside_line(outside)}", style)


def _ratios(result: Result) -> Text:
    """The headline; ratios of a refused candidate are called measured, not claimed."""
    claim, text = result.claim, Text()
    for quantity, base, figure in formatting.ratios(claim):
        text.append(_clean(f"{quantity if base == 'B1' else '':<9} {base} / {claim.about}  {figure.line}\n"))
    for cause, figure in formatting.causes(explained(result)):
        text.append(_clean(f"          {cause}: {figure.line}\n"), style="dim")
    if claim.verdict != "PASS":
        text.append("These ratios were measured; they are not claimed as a saving.\n", style="dim")
    return text


def measured_view(measured: Measured) -> Group:
    """What one model uses per reply."""
    return Group(
        _arms_table((measured.measurement,)),
        _text(formatting.origin_line(meter_of(measured.measurement, measured.meters))),
        _text(f"{formatting.operating_point(measured.at)}, {measured.artifact.precision}"),
        *(_text(note, "dim") for note in measured.notes),
    )


def comparison_view(comparison: Comparison) -> Group:
    """Two models side by side, their ratios, and the gate."""
    quality, info = comparison.quality, meter_of(comparison.measurements[0], comparison.meters)
    return Group(
        _arms_table(comparison.measurements),
        _text(f"energy    A / B  {formatting.energy_ratio(comparison.energy_ratio, info).line}"),
        _text(f"CPU time  A / B  {formatting.measured(comparison.cpu_s_ratio).line}"),
        _text(formatting.origin_line(info)),
        gate_view(quality),
        _verdict(quality.verdict, f"B against A on {quality.dialogues} dialogues"),
        *(_text(note, "dim") for note in comparison.notes),
    )


def _arms_table(measurements: Sequence[Measurement]) -> Table:
    table = _table("per reply", *(m.arm for m in measurements), right=slice(1, None))
    table.add_row("energy, J", *(_text(formatting.joules(m).line) for m in measurements))
    table.add_row("net of idle, J", *(_text(formatting.joules(m, net=True).line) for m in measurements))
    for name in formatting.per_reply(None):
        table.add_row(name, *(_text(formatting.per_reply(m)[name].line) for m in measurements))
    return table


def gate_view(report: QualityReport) -> Table:
    """Every check of the gate: estimate, interval, margin, verdict."""
    table = _table("gate", "check", "estimate, 95 % bounds", "margin", "verdict")
    for check, figure, remark in formatting.gate_lines(report):
        estimate = _text(formatting.ABSENT if figure.absent else figure.line)
        verdict = Text(check.verdict, style=VERDICT_STYLE[check.verdict])
        table.add_row(check.layer, _stacked(check.name, remark), estimate, _text(check.margin), verdict)
    return table


def transformed_view(model: TransformedModel) -> Group:
    """How a model folder came to be, and what that took."""
    before, after = model.parameters
    size = f"{after / 1e6:.2f}M parameters, {after / before:.0%} of {before / 1e6:.2f}M"
    lines = [f"  {step}" for step in model.lineage]
    for cost in model.spent:
        time = f"{cost.cpu_s:,.0f} CPU-s" if cost.device in (None, "cpu") else f"{cost.wall_s:,.0f} s on {cost.device}"
        energy = "energy not measured" if cost.joules is None else f"{cost.joules:,.0f} J by {cost.meter}"
        lines.append(f"  training took {cost.tokens:,} tokens, {time}, {energy}")
    return Group(Text.assemble((_clean(str(model.path)), "bold"), f"  {size}"), *map(_text, lines))


def artifact_view(artifact: Artifact) -> Group:
    """What was written, and what stayed at higher precision."""
    size = formatting.megabytes(artifact.size_b)
    return Group(
        _text(f"{artifact.path}: {artifact.precision}, {size} MB, for {artifact.runtime}"),
        *(_text(line, "dim") for line in formatting.kept_lines(artifact.kept)),
        *(_text(line, "dim") for line in formatting.rounding_lines(artifact.parity)),
        *(_text(remark) for remark in (artifact.parity.remarks if artifact.parity else ())),
    )


def doctor_view(findings: Sequence[Finding]) -> Group:
    """The meters of this machine, what would enable the others, and what may be set by hand."""
    table = _table("meter", "grade", "here", "covers, or why not")
    for f in findings:
        here = Text("yes", style="green") if f.available else Text("no", style="dim")
        table.add_row(_text(f.name), f.grade, here, _text(f.covers if f.available else f.reason or ""))
    return Group(table, *(_text(f"{f.name}: {f.advice}") for f in findings if f.advice))


def verification_view(verification: Verification) -> Group:
    """Figures that could not be computed again from the raw readings."""
    figures, differences = verification.figures, verification.differences
    if not differences:
        evidence = f"{verification.windows} windows, {verification.replies} replies"
        return Group(_text(f"all {figures} figures follow from the raw readings ({evidence})", "green"))
    return Group(
        _text(f"{len(differences)} of {figures} figures do not follow from the raw readings", "red"),
        *(_text(f"  {d.where}: stored {d.stored}, recomputed {d.recomputed}") for d in differences),
    )


def plan_view(table: PredictionTable) -> Group:
    """Devices down, recipes across; the error, which is one factor for all of a kind, in words below."""
    mb = {name: formatting.megabytes(read_b) for name, read_b in table.read_b.items()}
    original, exchange = mb.pop("original"), table.exchange
    view = _table("energy, original f16 over it", *mb, right=slice(1, None))
    view.padding = (0, 1)
    for hardware in dict.fromkeys(p.hardware for p in table.predictions):
        ratios = [p.energy_ratio.mean for p in table.predictions if p.hardware == hardware]
        view.add_row(hardware.name, *(f"{ratio:.2f}x" for ratio in ratios))
    view.add_section()
    view.add_row("MB of weights a token", *mb.values())
    return Group(
        view,
        _text(
            f"a reply is {exchange.fresh:.0f} new tokens of prompt and {exchange.reply:.0f} of reply, "
            f"{table.batch} at a time; {original} MB a token as f16"
        ),
        _text(f"PREDICTED (grade {table.grade}, {table.kind}): ratios only, no joules"),
        *map(_text, _prediction_errors(table)),
    )


def _prediction_errors(table: PredictionTable) -> Iterator[str]:
    for kind in dict.fromkeys(p.hardware.kind for p in table.predictions):
        ratio = next(p.energy_ratio for p in table.predictions if p.hardware.kind == kind)
        evidence = f"{ratio.n} measurements" + (" of GPUs, none of a TPU" if kind == "tpu" else "")
        yield f"{kind}: each within a factor of {ratio.hi / ratio.mean:.2f}, as on a device left out of {evidence}"


def _table(*heads: str, right: slice = slice(0)) -> Table:
    """right: the columns of numbers"""
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    for head in heads:
        table.add_column(_text(head), overflow="fold")
    for column in table.columns[right]:
        column.justify = "right"
    return table


def _stacked(above: str, below: str, style: str = "") -> Text:
    """A value with what belongs to it, dim, on the line below."""
    return Text.assemble((_clean(above), style), (f"\n{_clean(below)}" if below else "", "dim"))


def _verdict(verdict: str, sentence: str) -> Text:
    return Text.assemble((verdict, VERDICT_STYLE[verdict]), f": {_clean(sentence)}")


def _text(text: str, style: str = "") -> Text:
    return Text(_clean(text), style=style)


def _clean(text: str) -> str:
    """Without control characters, which a terminal would obey."""
    return _CONTROL.sub("\ufffd", text)
