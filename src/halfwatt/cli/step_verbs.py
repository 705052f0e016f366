"""The verbs that apply steps: trim, prune, distil, quantize. A step's fields are its flags."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import typer

from halfwatt.api import single_step
from halfwatt.cli.options import Debug, Device, Dialogues, Json, Model, Offline, OutFolder, Seed, Template
from halfwatt.compress.base import Step
from halfwatt.compress.quantize.qat import TrainOnGrid
from halfwatt.compress.quantize.quantize import Quantize
from halfwatt.compress.registry import STEPS
from halfwatt.core.errors import BadInput
from halfwatt.core.settings import Precision, RunSettings
from halfwatt.results.report.console import artifact_view, emit, transformed_view

Method = Literal["rtn", "hqq", "gptq", "qat"]

_WHERE = "where it learns (quantize: --method qat); auto, the default = the GPU where torch sees one"
_HOW = "of the products in training (quantize: --method qat); auto, the default = bf16 where the device computes it"
_FIELD = re.compile(r"^(\w+): {2,}(.*(?:\n +\S.*)*)$", re.MULTILINE)
_Run = Callable[..., None]
_Work = Callable[[RunSettings], int]

# Fields of `Quantize` that say nothing to a method.
_UNUSED: dict[Method, tuple[str, ...]] = {
    "rtn": ("sweeps",),
    "hqq": ("sweeps", "scale_search"),
    "gptq": ("scale_search",),
}


def command(name: str, run: _Run) -> typer.Typer:
    """A command line for one verb.

    Args:
        run: runs ``work(settings) -> exit code`` with the settings that every verb takes, as `cli` does it.
    """
    if name == "quantize":
        plan, own = _quantizing, _of_either()
        said = "Put MODEL on the int8 or int4 grid and write it for llama.cpp, proved in its own runtime."
    else:
        step = STEPS[name]
        plan, own = lambda given: _transforming(step, given), _of(step)
        said = (inspect.getdoc(step) or "").split("\n\n")[0]

    def verb(**given: Any) -> None:
        access = {
            "device": (given.get("device") or Device.auto).value,
            "dtype": "auto",
            "offline": given["offline"],
            "chat_template": given["chat_template"],
        }
        run(plan(given), access, given["seed"], given["debug"], None)

    parameters = [*_shared(name), *own]
    verb.__doc__ = said
    verb.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    verb.__annotations__ = {p.name: p.annotation for p in parameters}
    names = {"help_option_names": ["-h", "--help"]}
    made = typer.Typer(add_completion=False, pretty_exceptions_enable=False, context_settings=names)
    made.command(name)(verb)
    return made


# --- what a verb does -------------------------------------------------------------------------------------------------


def _transforming(step: type[Step], given: dict[str, Any]) -> _Work:
    """Model folder in, model folder out."""
    chosen = step(**{f.name: given[f.name] for f in _fields(step)})

    def work(settings: RunSettings) -> int:
        made = single_step.transform(
            given["model"], chosen, given["out"], given["dialogues"], given.get("teacher"), _trained(settings, given)
        )
        emit(made, transformed_view, given["json"])
        return 0

    return work


def _quantizing(given: dict[str, Any]) -> _Work:
    """Model folder in, artifact out."""
    names = {f.name for step in (Quantize, TrainOnGrid) for f in _fields(step)} - {"method"}
    told = {name: tuple(x) if isinstance(x := given[name], list) else x for name in names if given[name] is not None}
    how = {name: given[name] for name in ("device", "precision") if given[name] is not None}
    chosen = on_grid(given["method"], told if given["method"] == "qat" else told | how)

    def work(settings: RunSettings) -> int:
        made = single_step.quantize_to(
            given["model"], given["out"], chosen, given["dialogues"], _trained(settings, given)
        )
        emit(made, artifact_view, given["json"])
        return 0

    return work


def _trained(settings: RunSettings, given: dict[str, Any]) -> RunSettings:
    """With the precision that was given, for the verbs that train."""
    return dataclasses.replace(settings, precision=given.get("precision") or settings.precision)


def on_grid(method: Method, given: dict[str, Any]) -> Step:
    """The step behind ``--method``, with the fields that were given and its own for the rest.

    Raises:
        BadInput: a field that the method does not have.
    """
    step = TrainOnGrid if method == "qat" else Quantize
    known = {f.name for f in _fields(step)} - set(_UNUSED.get(method, ()))
    strange = sorted(given.keys() - known)
    if strange:
        flags = ", ".join(_flag(name) for name in strange)
        raise BadInput(f"--method {method} does not take {flags}", hint="see halfwatt quantize --help")
    if method == "qat":
        return TrainOnGrid(**given)
    if method == "hqq":
        return Quantize(**given, scale_search="hqq")
    return Quantize(**given, method=method)


# --- its flags --------------------------------------------------------------------------------------------------------


def _of(step: type[Step]) -> list[inspect.Parameter]:
    """A flag for each field, explained as the step's docstring explains it."""
    hints, said = get_type_hints(step), _explained(step)
    return [
        _parameter(f.name, f.default, Annotated[hints[f.name], typer.Option(help=said.get(f.name))])
        for f in _fields(step)
    ]


def _of_either() -> list[inspect.Parameter]:
    """``--method``, and a flag for each field of the steps behind it: given or not, so that none is taken in vain."""
    help_method = "hqq = rtn with --scale-search hqq; gptq and qat learn from --dialogues"
    found = {"method": _parameter("method", "rtn", Annotated[Method, typer.Option(help=help_method)])}
    for step, whose in ((Quantize, ""), (TrainOnGrid, "qat: ")):
        hints, said = get_type_hints(step), _explained(step)
        for f in (f for f in _fields(step) if f.name not in found):
            kind = list[str] if f.name == "int8" else hints[f.name]
            default = "" if f.default in (None, ()) else f"; default {f.default}"
            found[f.name] = _parameter(
                f.name, None, Annotated[kind | None, typer.Option(help=whose + said[f.name] + default)]
            )
    bits = Annotated[Literal[8, 4], typer.Option(help=_explained(Quantize)["bits"])]
    return list((found | {"bits": _parameter("bits", 8, bits)}).values())


def _explained(step: type[Step]) -> dict[str, str]:
    """What the step's docstring says of each field, in one line."""
    return {name: " ".join(text.split()) for name, text in _FIELD.findall(inspect.getdoc(step) or "")}


def _fields(step: type[Step]) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(step)  # type: ignore[arg-type]


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _shared(name: str) -> list[inspect.Parameter]:
    """What every such verb takes."""
    teacher = Annotated[
        Path | None, typer.Option("--teacher", help="the model to learn from; MODEL itself if not given")
    ]
    found: list[tuple[str, Any, Any]] = [("out", inspect.Parameter.empty, OutFolder), ("dialogues", None, Dialogues)]
    if name == "distil":
        found.append(("teacher", None, teacher))
    if name in ("prune", "distil", "quantize"):
        found.append(("device", None, Annotated[Device | None, typer.Option("--device", help=_WHERE)]))
    if name in ("distil", "quantize"):
        found.append(("precision", None, Annotated[Precision | None, typer.Option("--precision", help=_HOW)]))
    found += [("chat_template", None, Template), ("offline", False, Offline), ("seed", 0, Seed)]
    found += [("json", False, Json), ("debug", False, Debug)]
    return [_parameter("model", inspect.Parameter.empty, Model), *(_parameter(*row) for row in found)]


def _parameter(name: str, default: Any, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
