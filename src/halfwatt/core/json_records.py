"""Records to JSON and back, checked."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from halfwatt.core.errors import ModelError, first_line

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")


def adapter(kind: type[T]) -> TypeAdapter[T]:
    """Reads and writes records of a kind; made once each, which takes milliseconds, and thousands are asked for."""
    hashable: Any = kind  # which mypy doubts
    return cast("TypeAdapter[T]", _adapter(hashable))


@cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def to_json(record: Any) -> str:
    """A record, or a container of records, as indented JSON. NaN and infinity raise ValueError."""
    return json.dumps(adapter(type(record)).dump_python(record, mode="json"), indent=1, allow_nan=False)


def from_json(text: str | bytes, kind: type[T]) -> T:
    """Read a record back.

    Raises:
        pydantic.ValidationError: the text is not a `kind`.
    """
    return adapter(kind).validate_json(text)


def read_own(path: Path, kind: type[T]) -> T:
    """A record that halfwatt wrote beside a model.

    Raises:
        ModelError: it is damaged, or another program's.
    """
    try:
        return from_json(path.read_bytes(), kind)
    except ValueError as error:
        raise ModelError(f"{path} is not what halfwatt wrote", got=first_line(error)) from error
