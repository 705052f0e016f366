"""The formats, in one explicit list. It is asked by code that is about to hold a model: a format brings torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from halfwatt.core.errors import BadInput, ModelError, suggestion
from halfwatt.core.settings import Access
from halfwatt.formats.base import Format
from halfwatt.models.access import model_source

if TYPE_CHECKING:
    from halfwatt.models.chat_model import ChatModel


def formats(dtype: str = "auto") -> tuple[Format, ...]:
    """All of them. ``dtype`` is that of the weights where a format leaves a choice; "auto" = the model's own."""
    from halfwatt.formats.gguf import Gguf
    from halfwatt.formats.transformers_folder import TransformersFolder

    return (Gguf(), TransformersFolder(dtype))


def format_of(source: str | Path) -> Format:
    """The format that ``source``, a path or a hub id, is in.

    Raises:
        ModelError: none that is known; says what to give.
    """
    for each in formats():
        if each.reads(source):
            return each
    hint = "give the Hugging Face folder that holds config.json"
    raise ModelError(f"{source} is a file of no known format", hint=hint)


def by_name(name: str, dtype: str = "auto") -> Format:
    """The format called ``name``; see `formats` for ``dtype``.

    Raises:
        BadInput: there is none; says which there are.
    """
    known = {each.name: each for each in formats(dtype)}
    if name not in known:
        raise BadInput("no such format", got=name, hint=suggestion(name, known))
    return known[name]


def load_model(name: str, access: Access) -> ChatModel:
    """The model that a user names: a folder or hub id, or ``demo``.

    Raises:
        ModelError: it cannot be used. EnvironmentFault: it cannot be reached.
    """
    source = model_source(name)
    return format_of(source).read(source, access)
