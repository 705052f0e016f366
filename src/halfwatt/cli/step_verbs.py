"""The verbs that apply steps: trim, prune, distil, quantize. A step's fields are its flags. Imports torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import field, fields, make_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

from docstring_parser import parse_from_object

from halfwatt.api import report, single_step
from halfwatt.api.single_step import Distil, Prune, Quantize, Step, TrainOnGrid, Trim
from halfwatt.cli.options import Base, Learning, Loading, Method, Model, Rounding, Seeing, flat
from halfwatt.core.errors import BadInput
from halfwatt.core.settings import RunSettings

BITS = 8  # what --bits is unless it is given: the gentler of the two

# Fields of `Quantize` that say nothing to a method.
_UNUSED = {"rtn": ("sweeps",), "hqq": ("sweeps", "scale_search"), "gptq": ("scale_search",)}


def trim(model: Model, /, *, flags: Loading, step: Annotated[Trim, flat] = Trim(), base: Base) -> int:
    """Prints the `TransformedModel`."""
    return _transform(model, step, flags, base)


def prune(model: Model, /, *, flags: Seeing, step: Annotated[Prune, flat] = Prune(), base: Base) -> int:
    """Prints the `TransformedModel`."""
    return _transform(model, step, flags, base)


def distil(model: Model, /, *, flags: Learning, step: Annotated[Distil, flat] = Distil(), base: Base) -> int:
    """Prints the `TransformedModel`."""
    return _transform(model, step, flags, base, flags.teacher)


def _transform(model: str, step: Step, flags: Loading | Seeing, base: RunSettings, teacher: Path | None = None) -> int:
    outcome = single_step.transform(model, step, flags.out, flags.dialogues, teacher, flags.settings(base))
    if outcome is not None:
        report.emit(outcome, report.transformed_view, flags.json)
    return 0


def _fields_of_either() -> Iterator[tuple[str, Any, Any]]:
    """The fields of the steps behind ``--method``, each given or None, so that none is taken in vain."""
    names = {"method"}
    for step, whose in ((Quantize, ""), (TrainOnGrid, "qat: ")):
        hints = get_type_hints(step, include_extras=True)
        texts = {p.arg_name: p.description or "" for p in parse_from_object(step).params}
        for f in (f for f in fields(step) if f.name not in names):
            names.add(f.name)
            default = BITS if f.name == "bits" else f.default
            text = whose + " ".join(texts[f.name].split()) + ("" if default in (None, ()) else f" Default {default}.")
            yield f.name, hints[f.name] | None, field(default=None, metadata={"help": text})


if TYPE_CHECKING:
    GridFlags = Any
else:
    GridFlags = flat(make_dataclass("GridFlags", _fields_of_either(), frozen=True, namespace={"__module__": __name__}))


def quantize(model: Model, /, *, flags: Rounding, given: GridFlags = GridFlags(), base: Base) -> int:
    """Prints the `Artifact`."""
    typed = {f.name: getattr(given, f.name) for f in fields(given)}
    training = {} if flags.method == "qat" else {"device": flags.device, "precision": flags.precision}
    values = {name: value for name, value in (typed | training).items() if value is not None}
    step = on_grid(flags.method, {"bits": BITS} | values)
    access = replace(flags.access, device=flags.device or "auto")
    settings = replace(flags, access=access, precision=flags.precision or "auto").settings(base)
    artifact = single_step.quantize_to(model, flags.out, step, flags.dialogues, settings)
    report.emit(artifact, report.artifact_view, flags.json)
    return 0


def on_grid(method: Method, given: dict[str, Any]) -> Step:
    """The step behind ``--method``, with the fields that were given and its own for the rest.

    Raises:
        BadInput: a field that the method does not have.
    """
    step = TrainOnGrid if method == "qat" else Quantize
    known = {f.name for f in fields(step)} - set(_UNUSED.get(method, ()))
    if strange := sorted(given.keys() - known):
        flags = ", ".join("--" + name.replace("_", "-") for name in strange)
        raise BadInput(f"--method {method} does not take {flags}", hint="see halfwatt quantize --help")
    if method == "qat":
        return TrainOnGrid(**given)
    return Quantize(**given, scale_search="hqq") if method == "hqq" else Quantize(**given, method=method)
