"""What a search may try for a step's field, as part of the field's type. Pure.

coverage: Annotated[float, OneOf(0.999, 0.9999)] = 0.9999
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, get_type_hints

from halfwatt.compress.base import Step

Value = bool | int | float | str | None


class Chooser(Protocol):
    """Who decides: an Optuna trial, or a test. ``user_attrs``: what was settled before any question."""

    @property
    def user_attrs(self) -> Mapping[str, Any]: ...

    def suggest_categorical(self, name: str, choices: Sequence[Any], /) -> Any: ...

    def suggest_float(self, name: str, low: float, high: float, /) -> float: ...


@dataclass(frozen=True, slots=True, init=False)
class OneOf:
    """Any of these values."""

    values: tuple[Value, ...]

    def __init__(self, *values: Value) -> None:
        object.__setattr__(self, "values", values)

    def suggest(self, name: str, chooser: Chooser) -> Any:
        return chooser.suggest_categorical(name, self.values)


@dataclass(frozen=True, slots=True)
class Between:
    """Any number from ``low`` to ``high``."""

    low: float
    high: float

    def suggest(self, name: str, chooser: Chooser) -> Any:
        return chooser.suggest_float(name, self.low, self.high)


def suggest_step(step: type[Step], chooser: Chooser, **fixed: Any) -> Step:
    """A step whose fields the chooser decides, but for the ``fixed`` ones; what has no range keeps its default."""
    hints = get_type_hints(step, include_extras=True)
    names = [f.name for f in fields(step) if f.name not in fixed]  # type: ignore[arg-type]
    spans = ((name, span) for name in names for span in getattr(hints[name], "__metadata__", ()))
    values = {n: s.suggest(f"{step.name}.{n}", chooser) for n, s in spans if isinstance(s, OneOf | Between)}
    return step(**fixed, **values)
