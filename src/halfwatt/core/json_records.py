"""Records to JSON and back, checked."""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, cast

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
