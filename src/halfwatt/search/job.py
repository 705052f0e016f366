"""One optimisation: what is asked, of what, and where it works."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from halfwatt.compress.pretrained import Adopt
from halfwatt.compress.recipe import Recipe, default_recipes
from halfwatt.core.settings import RunSettings
from halfwatt.dialogues.dialogue import DialogueSet
from halfwatt.dialogues.splits import SealedSplit
from halfwatt.evaluate.instruments import Instruments
from halfwatt.models.chat_model import ChatModel


@dataclass(frozen=True, slots=True)
class Job:
    """One optimisation: a model, its traffic, and where to work.

    train:    what steps may learn from
    outside:  other kinds of dialogue, by name
    recipes:  what is tried besides what a search proposes
    name:     by which a build process gets the model; None = there is none, and recipes are built in this process
    """

    model: ChatModel
    tune: DialogueSet
    test: SealedSplit
    out: Path
    tools: Instruments
    settings: RunSettings = field(default_factory=RunSettings)
    train: DialogueSet | None = None
    outside: Mapping[str, DialogueSet] = field(default_factory=dict)
    recipes: tuple[Recipe, ...] = field(default_factory=default_recipes)
    name: str | None = None

    @property
    def adopted(self) -> tuple[Adopt, ...]:
        """Smaller models that a search may begin with."""
        return tuple(Adopt(str(folder)) for folder in self.settings.search.candidates)
