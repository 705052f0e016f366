"""What a search may try for a step's field, as part of the field's type. Pure.

coverage: Annotated[float, OneOf(0.999, 0.9999)] = 0.9999
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, get_type_hints

from halfwatt.compress.base import Step

Value = bool | int | float | str | None


class Chooser(Protocol):
    """Who decides: an Optuna trial, or a test. ``user_attrs``: what was settled before any question."""

    @property
    def user_attrs(self) -> Mapping[str, Any]: ...

    def suggest_categorical(self, name: str, choices: Sequence[Any], /) -> Any:
        """One of ``choices``."""
        ...

    def suggest_float(self, name: str, low: float, high: float, /, *, log: bool = False) -> float:
        """A number from ``low`` to ``high``."""
        ...


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
    """Any number from ``low`` to ``high``; ``log``: equal ratios are equally far apart."""

    low: float
    high: float
    log: bool = False

    def suggest(self, name: str, chooser: Chooser) -> Any:
        return chooser.suggest_float(name, self.low, self.high, log=self.log)


def ranges(step: type[Step]) -> dict[str, OneOf | Between]:
    """The fields of a step that a search may vary."""
    hints = get_type_hints(step, include_extras=True)
    return {
        field.name: hint
        for field in dataclasses.fields(step)  # type: ignore[arg-type]
        for hint in getattr(hints[field.name], "__metadata__", ())
        if isinstance(hint, OneOf | Between)
    }


def suggest_step(step: type[Step], chooser: Chooser, **fixed: Any) -> Step:
    """A step whose fields the chooser decides, but for the ``fixed`` ones; what has no range keeps its default."""
    free = {name: span for name, span in ranges(step).items() if name not in fixed}
    return step(**{name: span.suggest(f"{step.name}.{name}", chooser) for name, span in free.items()}, **fixed)
