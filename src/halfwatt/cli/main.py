"""The command line: the only place that prints, exits or reads the environment.

Results go to stdout (one JSON document with --json), progress to stderr. Exit codes: 0 done and proven, 1 done but the
gate failed or nothing was proven, 2 bad input or usage, 3 environment.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from halfwatt.cli.options import (
    Debug,
    Device,
    Dialogues,
    Dtype,
    Json,
    MaxLoss,
    Model,
    OfDtype,
    Offline,
    OnDevice,
    OutFolder,
    Outside,
    RaplRoot,
    Runtime,
    RuntimeName,
    Seed,
    Template,
    file_option,
)
from halfwatt.core.errors import BadInput, HalfwattError

if TYPE_CHECKING:
    from halfwatt.core.settings import RunSettings

BASE: ContextVar[RunSettings | None] = ContextVar("BASE", default=None)  # what `main` was called with

app = typer.Typer(
    help="Make a chat model answer as well for a fraction of the joules, and prove it on this machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def optimize(
    model: Model,
    dialogues: Dialogues = None,
    max_loss: MaxLoss = None,
    recipe: Annotated[Path | None, file_option("--recipe", help="TOML: measure this chain of steps")] = None,
    budget: Annotated[str | None, typer.Option("--budget", help="search for so long: 10m, 500kJ, 20 (trials)")] = None,
    replies_per_hour: Annotated[
        float | None,
        typer.Option("--replies-per-hour", help="the traffic: a search ends where a year cannot repay it"),
    ] = None,
    users: Annotated[int, typer.Option("--users", min=1, help="who ask at once and may be answered together")] = 1,
    candidate: Annotated[
        list[Path] | None, typer.Option("--candidate", help="a smaller model to begin with, as often as you like")
    ] = None,
    storage: Annotated[str | None, typer.Option("--storage", help="share trials: a file or a database URL")] = None,
    outside: Outside = None,
    out: OutFolder = Path("out"),
    device: OnDevice = Device.auto,
    dtype: OfDtype = Dtype.auto,
    chat_template: Template = None,
    rapl_root: RaplRoot = None,
    offline: Offline = False,
    seed: Seed = 0,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Find the cheapest form of MODEL that answers as well, and prove it. Goes on where it was interrupted."""

    share = _share(max_loss)

    def work(settings: RunSettings) -> int:
        from halfwatt.api import verbs
        from halfwatt.results.report.console import emit, result_view

        found = verbs.optimize(
            model,
            dialogues,
            max_loss=share,
            recipe=recipe,
            budget=budget,
            replies_per_hour=replies_per_hour,
            users=users,
            candidates=candidate or (),
            storage=storage,
            outside=outside,
            out=out,
            settings=settings,
        )
        emit(found, lambda result: result_view(result, out), json)
        return 0 if found.claim.verdict == "PASS" else 1

    _run(work, _access(device, dtype, offline, chat_template), seed, debug, rapl_root)


@app.command()
def measure(
    model: Model,
    dialogues: Dialogues = None,
    runtime: Runtime = RuntimeName.auto,
    device: OnDevice = Device.auto,
    dtype: OfDtype = Dtype.auto,
    chat_template: Template = None,
    rapl_root: RaplRoot = None,
    offline: Offline = False,
    seed: Seed = 0,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """What MODEL uses per reply on this machine."""

    def work(settings: RunSettings) -> int:
        from halfwatt.api import verbs
        from halfwatt.results.report.console import emit, measured_view

        found = verbs.measure(model, dialogues, runtime=runtime.value, settings=settings)
        emit(found, measured_view, json)
        return 0

    _run(work, _access(device, dtype, offline, chat_template), seed, debug, rapl_root)


@app.command()
def compare(
    a: Annotated[str, typer.Argument(help="the reference: a model or artifact folder")],
    b: Annotated[str, typer.Argument(help="the candidate")],
    dialogues: Dialogues = None,
    max_loss: MaxLoss = None,
    runtime: Runtime = RuntimeName.auto,
    device: OnDevice = Device.auto,
    dtype: OfDtype = Dtype.auto,
    chat_template: Template = None,
    rapl_root: RaplRoot = None,
    offline: Offline = False,
    seed: Seed = 0,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Energy and quality of two models, paired. Exit 0 when B passes the gate against A, else 1."""

    share = _share(max_loss)

    def work(settings: RunSettings) -> int:
        from halfwatt.api import verbs
        from halfwatt.results.report.console import comparison_view, emit

        found = verbs.compare(a, b, dialogues, max_loss=share, runtime=runtime.value, settings=settings)
        emit(found, comparison_view, json)
        return 0 if found.quality.verdict == "PASS" else 1

    _run(work, _access(device, dtype, offline, chat_template), seed, debug, rapl_root)


@app.command()
def plan(
    model: Model,
    hardware: Annotated[str, typer.Option("--hardware", help="such as h100,m2,rpi5; not given = all it knows")] = "",
    dialogues: Dialogues = None,
    recipe: Annotated[list[Path] | None, file_option("--recipe", help="TOML, beside int8 and int4; repeatable")] = None,
    batch: Annotated[int, typer.Option("--batch", help="replies that are made together")] = 1,
    chat_template: Template = None,
    offline: Offline = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """What recipes would save on hardware that is not here: predicted ratios, with their error. No weights needed."""

    def work(settings: RunSettings) -> int:
        from halfwatt.api import verbs
        from halfwatt.results.report.console import emit, plan_view

        names = [name.strip() for name in hardware.split(",") if name.strip()]
        found = verbs.plan(model, names, dialogues, recipes=recipe or (), batch=batch, settings=settings)
        emit(found, plan_view, json)
        return 0

    _run(work, _access(Device.cpu, Dtype.auto, offline, chat_template), 0, debug, None)


def _of_steps(name: str) -> None:
    """Add a verb whose flags are the fields of its steps; they are read when it is called, for that imports torch."""

    def verb(context: typer.Context) -> None:
        from halfwatt.cli.step_verbs import command

        line = list(context.args)
        raise typer.Exit(command(name, _run)(args=line, prog_name=f"halfwatt {name}", standalone_mode=False))

    verb.__doc__ = _STEPS[name]
    loose = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
    app.command(name, context_settings=loose, add_help_option=False)(verb)


_STEPS = {
    "quantize": "Put MODEL on the int8 or int4 grid and write it for llama.cpp, proved in its own runtime.",
    "trim": "Keep the part of MODEL's vocabulary that the dialogues use.",
    "prune": "Make MODEL smaller: fewer FFN neurons, heads or blocks, by what the dialogues use.",
    "distil": "Let MODEL learn to answer as a teacher does.",
}
for _name in _STEPS:
    _of_steps(_name)


@app.command()
def chat(
    artifact: Model,
    runtime: Runtime = RuntimeName.auto,
    device: OnDevice = Device.auto,
    dtype: OfDtype = Dtype.auto,
    chat_template: Template = None,
    rapl_root: RaplRoot = None,
    offline: Offline = False,
    seed: Seed = 0,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Talk to a model; prints joules, tokens and seconds after each reply. Ends with an empty line or Ctrl-D."""

    def work(settings: RunSettings) -> int:
        from halfwatt.api.chat import converse

        lines = iter(_prompted_lines(quiet=json or not sys.stdin.isatty()))
        converse(artifact, lines, _json_line if json else _stream, runtime.value, settings)
        return 0

    _run(work, _access(device, dtype, offline, chat_template), seed, debug, rapl_root)


@app.command()
def doctor(rapl_root: RaplRoot = None, json: Json = False, seed: Seed = 0, debug: Debug = False) -> None:
    """Which energy meters exist here, what each covers, and what would enable the others."""

    def work(_: RunSettings) -> int:
        from halfwatt.meters.discover import findings
        from halfwatt.results.report.console import doctor_view, emit

        emit({"meters": findings(rapl_root=rapl_root)}, lambda found: doctor_view(found["meters"]), json)
        return 0

    _run(work, None, seed, debug, rapl_root)


@app.command()
def verify(
    result: Annotated[Path, typer.Argument(help="a result.json")],
    json: Json = False,
    seed: Seed = 0,
    debug: Debug = False,
) -> None:
    """Recompute every figure of a result from the raw readings in it. Exit 0 when all agree, else 1."""

    def work(_: RunSettings) -> int:
        from halfwatt.results.report.console import emit, verification_view
        from halfwatt.results.verify import verify_file

        found = verify_file(result)
        emit(found, verification_view, json)
        return 0 if not found.differences else 1

    _run(work, None, seed, debug, None)


# --- between the user and the rooms --------------------------------------------------------------------------------


def main(base: RunSettings | None = None) -> None:
    """The console entry point: one line for every error, and the exit code that belongs to it.

    base: settings that no flag changes, such as a shorter protocol
    """
    BASE.set(base)
    try:
        code = app(standalone_mode=False)  # returns the code of a typer.Exit
    except HalfwattError as error:
        _complain(str(error))
        code = error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        _complain("interrupted; the same command goes on where it stopped")
        code = 130
    except Exception as error:
        usage = _usage_error(error)
        if usage is None and "--debug" in sys.argv:
            raise
        if usage != "":  # empty: no command was given and the help has been shown
            _complain(usage or _unexpected(error))
        code = 3 if usage is None else 2
    sys.exit(code)


def _unexpected(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{error.strerror or error}: {error.filename or ''}".rstrip(": ")
    return f"unexpected {type(error).__name__}: {error}; run again with --debug and report it"


def _usage_error(error: Exception) -> str | None:
    """The line of a wrong option or argument; None for anything else."""
    show = getattr(error, "format_message", None)
    if show is None:
        return None
    said = str(show()).rstrip(".")
    return f"{said}; see halfwatt --help" if said else ""


def _run(
    work: Callable[[RunSettings], int],
    access: dict[str, Any] | None,
    seed: int,
    debug: bool,
    rapl_root: str | None,
) -> None:
    if access and access["offline"]:
        os.environ["HF_HUB_OFFLINE"] = "1"  # transformers asks on its own too
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        raise typer.Exit(work(_options(access, seed, rapl_root)))
    except HalfwattError:
        if debug:
            import traceback

            traceback.print_exc()
        raise


def _options(access: dict[str, Any] | None, seed: int, rapl_root: str | None) -> Any:
    """What every verb takes; light verbs (doctor, verify) do not load the rooms behind it."""
    if access is None:
        return None
    import dataclasses

    from halfwatt.core.settings import Access, RunSettings

    return dataclasses.replace(
        BASE.get() or RunSettings(),
        access=Access(**access),
        seed=seed,
        rapl_root=rapl_root,
        command=shlex.join(["halfwatt", *sys.argv[1:]]),
        progress=_progress(),
    )


def _access(device: Device, dtype: Dtype, offline: bool, chat_template: Path | None) -> dict[str, Any]:
    return {"device": device.value, "dtype": dtype.value, "offline": offline, "chat_template": chat_template}


def _share(text: str | None) -> float | None:
    """``1%`` or ``0.01`` as 0.01."""
    if text is None:
        return None
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 < value < 0.5:
        raise BadInput("--max-loss is a share between 0 and 50 %", got=text, hint="type --max-loss 1%")
    return value


def _json_line(value: Any) -> None:
    import json

    print(json.dumps(value), flush=True)


def _stream(piece: Any) -> None:
    """Text as it comes; the figures of the finished reply on a line of their own."""
    if isinstance(piece, str):
        print(piece, end="", flush=True)
    elif isinstance(piece, dict) and "line" in piece:
        print(f"\n  [{piece['line']}]", flush=True)


def _prompted_lines(quiet: bool) -> Any:
    while True:
        try:
            line = input("" if quiet else "you> ")
        except EOFError:
            return
        if not line.strip():
            return
        yield line


def _progress() -> Callable[[str], None]:
    """One line on a terminal, rewritten; plain lines elsewhere. Called between windows only."""
    live = sys.stderr.isatty()

    def say(text: str) -> None:
        print(f"\r\x1b[2K{text[:100]}" if live else text, end="" if live else "\n", file=sys.stderr, flush=True)

    return say


def _complain(line: str) -> None:
    print(f"halfwatt: {' '.join(line.split())}", file=sys.stderr)


if __name__ == "__main__":
    main()
