"""The verbs, but for those of single steps (`main.VERBS`). Each imports what it needs and returns its exit code."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from halfwatt.cli import output
from halfwatt.cli.options import Base, Common, Comparing, Measuring, Model, Planning, RaplRoot, Search, ServeFlags, Talk


def optimize(model: Model, /, *, flags: Search = Search(), base: Base) -> int:
    """Exit code 0 where the claim passes, else 1."""
    from halfwatt.api import report, verbs

    settings = flags.settings(base)
    result = verbs.optimize(
        model, flags.dialogues, max_loss=flags.max_loss, budget=flags.budget, out=flags.out, settings=settings
    )
    report.emit(result, partial(report.result_view, out=flags.out), flags.json)
    return 0 if result.claim.verdict == "PASS" else 1


def measure(model: Model, /, *, flags: Measuring = Measuring(), base: Base) -> int:
    """Prints the `Measured`."""
    from halfwatt.api import report, verbs

    measured = verbs.measure(model, flags.dialogues, runtime=flags.runtime, settings=flags.settings(base))
    report.emit(measured, report.measured_view, flags.json)
    return 0


Reference = Annotated[str, Parameter(help="The reference: a model or artifact folder.")]
Candidate = Annotated[str, Parameter(help="The candidate.")]


def compare(a: Reference, b: Candidate, /, *, flags: Comparing = Comparing(), base: Base) -> int:
    """Exit code 0 where B passes the gate, else 1."""
    from halfwatt.api import report, verbs

    comparison = verbs.compare(
        a, b, flags.dialogues, max_loss=flags.max_loss, runtime=flags.runtime, settings=flags.settings(base)
    )
    report.emit(comparison, report.comparison_view, flags.json)
    return 0 if comparison.quality.verdict == "PASS" else 1


def plan(model: Model, /, *, flags: Planning = Planning(), base: Base) -> int:
    """Prints the `PredictionTable`."""
    from halfwatt.api import report, verbs

    names = [name.strip() for name in (flags.hardware or "").split(",") if name.strip()]
    settings = flags.settings(base)
    table = verbs.plan(model, names, flags.dialogues, recipes=flags.recipe, batch=flags.batch, settings=settings)
    report.emit(table, report.plan_view, flags.json)
    return 0


def chat(artifact: Model, /, *, flags: Talk = Talk(), base: Base) -> int:
    """Until nothing is typed."""
    from halfwatt.api.chat import converse

    lines = output.prompted_lines(quiet=flags.json or not sys.stdin.isatty())
    converse(artifact, lines, output.json_line if flags.json else output.stream, flags.runtime, flags.settings(base))
    return 0


def serve(artifact: Model, /, *, flags: ServeFlags = ServeFlags(), base: Base) -> int:
    """Until SIGTERM or Ctrl-C."""
    from halfwatt.serve.server import serve as run

    def ready(address: str) -> None:
        if flags.json:
            output.json_line({"address": address})
        output.progress(f"serving {artifact} on {address}/v1; the page is {address}/, Ctrl-C ends it")

    run(artifact, flags.settings(base), flags.serving, output.api_key(), ready)
    return 0


def doctor(*, flags: Common = Common(), rapl_root: RaplRoot = None) -> int:
    """Prints what `findings` finds."""
    from halfwatt.api import report

    meters = {"meters": report.findings(rapl_root=rapl_root)}
    report.emit(meters, lambda record: report.doctor_view(record["meters"]), flags.json)
    return 0


def verify(result: Annotated[Path, Parameter(help="A result.json.")], /, *, flags: Common = Common()) -> int:
    """Exit code 0 where every figure agrees, else 1."""
    from halfwatt.api import report

    verification = report.verify_file(result)
    report.emit(verification, report.verification_view, flags.json)
    return 0 if not verification.differences else 1
