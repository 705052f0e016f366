"""One optimisation: what is asked, of what, and where it works."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from halfwatt.compress.pretrained import Adopt
from halfwatt.compress.recipe import Recipe, default_recipes
from halfwatt.core.types import Progress
from halfwatt.dialogues.dialogue import DialogueSet
from halfwatt.dialogues.splits import SealedSplit
from halfwatt.evaluate.gate import Margins
from halfwatt.evaluate.instruments import Instruments
from halfwatt.models.access import Access
from halfwatt.models.chat_model import ChatModel
from halfwatt.search.budget import Budget


@dataclass(frozen=True, slots=True)
class Job:
    """One optimisation: a model, its traffic, how much may be lost, and where to work."""

    model: ChatModel
    tune: DialogueSet
    test: SealedSplit
    out: Path
    tools: Instruments
    train: DialogueSet | None = None  # what steps may learn from
    outside: Mapping[str, DialogueSet] = field(default_factory=dict)  # other kinds of dialogue, by name
    recipes: tuple[Recipe, ...] = field(default_factory=default_recipes)
    budget: Budget | None = None  # of a search beyond these recipes; None = no such search
    adopted: tuple[Adopt, ...] = ()  # smaller models that it may begin with
    storage: str | None = None  # of its trials, to share them: a path or a database URL; None = in ``out``
    rapl_root: str | None = None
    margins: Margins = field(default_factory=Margins)
    device: str = "cpu"
    dtype: str = "auto"
    named: tuple[str, Access] | None = None  # how makers in other processes get the model; None = there are none
    users: int = 1  # who may be answered at once
    replies_per_hour: float | None = None  # of the traffic; None = unknown, and a trial need not repay itself
    commands: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # of workers for other runtimes, by name
    seed: int = 0
    progress: Progress = lambda _: None
