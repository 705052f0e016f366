"""Records to JSON and back, checked."""

from __future__ import annotations

import json
from typing import Any, TypeVar

T = TypeVar("T")


def to_json(record: Any) -> str:
    """A record, or a container of records, as indented JSON. NaN and infinity raise ValueError."""
    from pydantic import TypeAdapter

    return json.dumps(TypeAdapter(type(record)).dump_python(record, mode="json"), indent=1, allow_nan=False)


def from_json(text: str | bytes, kind: type[T]) -> T:
    """Read a record back.

    Raises:
        pydantic.ValidationError: the text is not a `kind`.
    """
    from pydantic import TypeAdapter

    return TypeAdapter(kind).validate_json(text)
