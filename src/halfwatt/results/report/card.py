"""The model card: ``README.md`` of the winner's folder, as the Hugging Face Hub reads it."""

from __future__ import annotations

import json
import re
from pathlib import Path

from halfwatt.evaluate.records import Measurement
from halfwatt.results.report import formatting
from halfwatt.results.result import Result
from halfwatt.results.tables import champion, delivered, meter, rows
from halfwatt.runtimes.registry import find_runtime

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def model_card(result: Result, *, licence: str | None = None) -> str:
    """The card of what is delivered.

    Args:
        licence: the base model's licence identifier, see `licence_of`; left out of the card when not known.
    """
    parts = [_front_matter(result, licence), _about(result), _figures(result), _gate(result), _made(result)]
    return "\n".join(parts)


def licence_of(folder: Path) -> str | None:
    """The licence that a model folder's own card states; None when it states none."""
    try:
        text = (folder / "README.md").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    front = re.match(r"---\n(.*?)\n---", text, flags=re.DOTALL)
    stated = re.search(r"^license:\s*[\"']?([\w.-]+)", front.group(1), flags=re.MULTILINE) if front else None
    return stated.group(1) if stated else None


def _front_matter(result: Result, licence: str | None) -> str:
    """YAML; strings are quoted as JSON, which YAML reads."""
    artifact = delivered(result).artifact
    runtime = find_runtime(artifact.runtime) if artifact else None
    fields = {
        "base_model": _base(result.provenance.model),
        "base_model_relation": "quantized",
        "library_name": runtime.library if runtime else None,
        "pipeline_tag": "text-generation",
        "license": licence,
    }
    lines = [f"{name}: {json.dumps(value)}" for name, value in fields.items() if value]
    return "\n".join(["---", *lines, "---", ""])


def _base(model: str) -> str:
    """A hub id as it is; of a local folder its name alone, since the path means nothing elsewhere."""
    return model if _HUB_ID.fullmatch(model) else Path(model).name


def _about(result: Result) -> str:
    made, base = delivered(result), _base(result.provenance.model)
    artifact = made.artifact
    what = (
        f"{artifact.precision}, {formatting.megabytes(artifact.size_b)} MB, for {artifact.runtime}" if artifact else ""
    )
    at = formatting.served(made.at)
    return (
        f"# {_cell(base)}, {made.name}\n\n"
        f"{_cell(what)}; served with {at}. Made and measured by halfwatt {result.provenance.halfwatt}.\n\n"
        f"**{result.claim.verdict}**: {_cell(result.claim.sentence)}\n"
    )


def _figures(result: Result) -> str:
    """Before and after, from the one interleaved run; a refused candidate's figures are named as its own."""
    names = {
        "B0": "original as commonly run (B0)",
        "B1": "original, best runtime (B1)",
        "winner": champion(result).name,
    }
    columns = [m for m in result.final if m.arm in names]
    lines = {
        formatting.energy_unit(result.final): [_energy(result, m) for m in columns],
        "CPU-ms/reply": [formatting.cpu_ms(m).line for m in columns],
        "tokens/reply": [formatting.measured(m.tokens_per_reply).line for m in columns],
        "s/reply": [formatting.measured(m.s_per_reply).line for m in columns],
    }
    table = [_row(["per reply, 95 % interval", *(names[m.arm] for m in columns)]), _row(["---"] * (len(columns) + 1))]
    table += [_row([name, *cells]) for name, cells in lines.items()]
    claim = result.claim
    ratios = [
        ("energy", formatting.times(claim.energy_ratio_vs_B1, claim.grade, claim.kind), "B1"),
        ("energy", formatting.times(claim.energy_ratio_vs_B0, claim.grade, claim.kind), "B0"),
        ("CPU time", formatting.times(claim.cpu_s_ratio_vs_B1, None, None), "B1"),
        ("CPU time", formatting.times(claim.cpu_s_ratio_vs_B0, None, None), "B0"),
    ]
    said = "Times less" if claim.verdict == "PASS" else "Measured, not claimed as a saving"
    lines_out = [f"- {name}, {base} over {claim.about}: {shown.line}" for name, shown, base in ratios]
    origin = _cell(formatting.origin_line(meter(result)))
    return "\n".join(["## Per reply", "", *table, "", f"{said}:", "", *lines_out, "", origin, ""])


def _energy(result: Result, m: Measurement) -> str:
    wanted = result.claim.about if m.arm == "winner" else m.arm
    return next((formatting.energy(row).line for row in rows(result) if row.trial.name == wanted), formatting.ABSENT)


def _gate(result: Result) -> str:
    report = result.final_quality
    if report is None:
        return f"## Quality gate\n\n{formatting.ABSENT} not run.\n"
    head = (
        f"{report.verdict} for {result.claim.about} on {report.dialogues} dialogues and {report.replies} replies "
        f"of the {report.split} split, seed {report.seed}."
    )
    table = [_row(["check", "estimate, one-sided 95 % bounds", "margin", "verdict", "remarks"]), _row(["---"] * 5)]
    for check in formatting.gate_lines(report):
        shown = formatting.check_figure(check)
        estimate = formatting.ABSENT if shown.absent else shown.line
        table.append(
            _row([f"{check.layer} {check.name}", estimate, check.margin, check.verdict, formatting.remarks(check)])
        )
    return "\n".join(["## Quality gate", "", head, "", *table, "", *_outside(result)])


def _outside(result: Result) -> list[str]:
    """What the model is not made for."""
    if not result.outside:
        return []
    lines = [f"- {_cell(formatting.outside(met))}" for met in result.outside]
    return ["## Outside the traffic that it was made for", "", f"{result.claim.about} against B1:", "", *lines, ""]


def _made(result: Result) -> str:
    made = result.provenance
    machine = ", ".join(f"{name} {value}" for name, value in made.machine.items())
    versions = ", ".join(f"{name} {value}" for name, value in made.versions.items())
    lines = [
        f"- device: {machine}",
        f"- versions: {versions}",
        f"- base weights: sha256 {made.model_sha256}",
        *(f"- dialogues, {split}: sha256 {digest}" for split, digest in made.dialogues_sha256.items()),
        f"- seed: {made.seed}",
        f"- made: {made.created}",
    ]
    return "\n".join(["## How it was made", "", *map(_cell, lines), ""])


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(map(_cell, cells)) + " |"


def _cell(text: str) -> str:
    """One line that cannot break out of a table or start markup."""
    flat = " ".join(text.split())
    return flat.replace("|", "\\|").replace("<", "&lt;")
