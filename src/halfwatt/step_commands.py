"""The verbs that make a new model folder with one step: trim, prune, distil. A step's fields are its flags."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from halfwatt import api
from halfwatt.options import Debug, Dialogues, Json, Model, Offline, OutFolder, Seed, Template
from halfwatt.report.console import show_made
from halfwatt.steps.available import STEPS
from halfwatt.steps.base import Step

_FIELD = re.compile(r"^\s*(\w+):\s{2,}(.*)$", re.MULTILINE)
_Run = Callable[..., None]


def command(name: str, run: _Run) -> typer.Typer:
    """A command line for one step.

    Args:
        run: runs ``work(options) -> exit code`` with the options that every verb takes, as `cli` does it.
    """
    step = STEPS[name]
    fields = dataclasses.fields(step)  # type: ignore[arg-type]

    def verb(**given: Any) -> None:
        chosen = step(**{f.name: given.pop(f.name) for f in fields})

        def work(options: api.Options) -> int:
            made = api.transform(
                given["model"], chosen, given["out"], given["dialogues"], given.get("teacher"), options
            )
            if given["json"]:
                from halfwatt.records import to_json

                typer.echo(to_json(made))
            else:
                show_made(made)
            return 0

        access = {
            "device": "cpu",
            "dtype": "auto",
            "offline": given["offline"],
            "chat_template": given["chat_template"],
        }
        run(work, access, given["seed"], given["debug"], None)

    parameters = [*_shared(name), *_own(step)]
    verb.__doc__ = (inspect.getdoc(step) or "").split("\n\n")[0]
    verb.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    verb.__annotations__ = {p.name: p.annotation for p in parameters}
    names = {"help_option_names": ["-h", "--help"]}
    made = typer.Typer(add_completion=False, pretty_exceptions_enable=False, context_settings=names)
    made.command(name)(verb)
    return made


def _own(step: type[Step]) -> list[inspect.Parameter]:
    """A flag for each field, explained as the step's docstring explains it."""
    hints, said = get_type_hints(step), dict(_FIELD.findall(step.__doc__ or ""))
    return [
        _parameter(f.name, f.default, Annotated[hints[f.name], typer.Option(help=said.get(f.name))])
        for f in dataclasses.fields(step)  # type: ignore[arg-type]
    ]


def _shared(name: str) -> list[inspect.Parameter]:
    """What every such verb takes."""
    teacher = Annotated[
        Path | None, typer.Option("--teacher", help="the model to learn from; MODEL itself if not given")
    ]
    found: list[tuple[str, Any, Any]] = [("out", inspect.Parameter.empty, OutFolder), ("dialogues", None, Dialogues)]
    if name == "distil":
        found.append(("teacher", None, teacher))
    found += [("chat_template", None, Template), ("offline", False, Offline), ("seed", 0, Seed)]
    found += [("json", False, Json), ("debug", False, Debug)]
    return [_parameter("model", inspect.Parameter.empty, Model), *(_parameter(*row) for row in found)]


def _parameter(name: str, default: Any, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
