"""What a format is: a form in which models are read and written. Import and export are the same object."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

from halfwatt.core.errors import ModelError
from halfwatt.core.settings import Access, RuntimeName
from halfwatt.formats.artifact import Artifact, home_of

if TYPE_CHECKING:
    from halfwatt.models.chat_model import ChatModel


class Format(Protocol):
    """One form of a model on disk."""

    name: ClassVar[str]
    runtime: ClassVar[RuntimeName]  # that serves what `write` writes

    def reads(self, source: str | Path) -> bool:
        """Is ``source`` (a path or a hub id) of this form? Names of files are looked at, not what is in them."""

    def read(self, source: str | Path, access: Access) -> ChatModel:
        """The model, checked before anything of it is used; on the CPU.

        Raises:
            ModelError: it cannot be read; says why, and what to give instead. EnvironmentFault: it cannot be reached.
        """

    def write(self, model: ChatModel, folder: Path) -> Artifact:
        """Write ``model`` and ``artifact.json`` into ``folder``: whole or not at all.

        Raises:
            BadInput: the folder exists already. ModelError: `problems` names some; nothing is written.
        """

    def problems(self, model: ChatModel) -> list[str]:
        """Every reason why ``model`` cannot be written in this form, before any work; empty = it can."""


def require_writable(model: ChatModel, form: Format) -> None:
    """Raise every one of the format's problems with ``model``, in one ModelError."""
    if problems := [model.run_only] if model.run_only else form.problems(model):
        raise ModelError(f"{home_of(model.source).name} cannot be written as {form.name}: {'; '.join(problems)}")
