"""One optimisation: what is asked, of what, and where it works."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from halfwatt.compress.base import StepContext
from halfwatt.compress.pretrained import Adopt
from halfwatt.compress.recipe import Recipe, default_recipes
from halfwatt.core.files import turn
from halfwatt.core.machine import cores, halfwatt_version, versions
from halfwatt.core.settings import RunSettings
from halfwatt.dialogues.dialogue import DialogueSet
from halfwatt.dialogues.splits import SealedSplit
from halfwatt.evaluate.gate import EDITION
from halfwatt.meters.discover import Instruments
from halfwatt.models.chat_model import ChatModel


@dataclass(frozen=True, slots=True)
class OtherKind:
    """Dialogues that the users have beside their own kind; ``share`` of all their traffic is such."""

    tune: DialogueSet
    test: SealedSplit
    share: float

    @property
    def hashes(self) -> dict[str, str]:
        """Of both, by name."""
        return {"tune, the other kind": self.tune.sha256, "test, the other kind": self.test.sha256}


@dataclass(frozen=True, slots=True)
class Job:
    """One optimisation: a model, its traffic, and where to work."""

    model: ChatModel
    tune: DialogueSet
    test: SealedSplit
    out: Path
    tools: Instruments
    settings: RunSettings = field(default_factory=RunSettings)
    train: DialogueSet | None = None  # what steps may learn from
    outside: Mapping[str, DialogueSet] = field(default_factory=dict)  # other kinds of dialogue, by name
    other: OtherKind | None = None  # of traffic that a student in front of the original is wanted for
    recipes: tuple[Recipe, ...] = field(default_factory=default_recipes)  # tried besides what a search proposes
    name: str | None = None  # by which a build process gets the model; None = recipes are built in this process

    @property
    def adopted(self) -> tuple[Adopt, ...]:
        """Smaller models that a search may begin with."""
        return tuple(Adopt(str(folder)) for folder in self.settings.search.candidates)

    def step_context(self) -> StepContext:
        """What the steps of a recipe may use: the training split and nothing of the other two."""
        dialogues, device = () if self.train is None else self.train.dialogues, self.settings.access.device
        cache = self.out / "training"
        return StepContext(dialogues, settings=self.settings, device=device, meter=self.tools.primary, cache=cache)

    def turn(self) -> AbstractContextManager[None]:
        """A device is measured on by one process at a time; the processor also builds what is measured."""
        return turn(self.settings.access.device.replace(":", "-"), self.settings.progress)

    def identity(self) -> dict[str, str]:
        """What makes two runs the same run."""
        settings, other = self.settings, self.other
        mixed = {} if other is None else {"cascade": f"{other.share} {other.tune.sha256} {other.test.sha256}"}
        return mixed | {
            "model": self.model.sha256,
            "recipes": repr(self.recipes),
            "budget": repr(settings.search.budget),
            "candidates": repr(self.adopted),
            "train": "none" if self.train is None else self.train.sha256,
            "tune": self.tune.sha256,
            "test": self.test.sha256,
            "outside": " ".join(other.sha256 for other in self.outside.values()),
            "margins": repr(settings.margins),
            "gate": f"edition {EDITION}",
            "halfwatt": halfwatt_version(),
            "llama.cpp": versions().get("llama-cpp-python", "none"),
            "precision": settings.precision,
            "protocol": repr((settings.protocol, settings.requests)),
            "judge": settings.judge or "the original",
            "seed": str(settings.seed),
            "users": str(settings.search.users),
            "device": settings.access.device,
            "dtype": settings.access.dtype,
            "run_only": str(settings.access.run_only),
            "meter": "none" if self.tools.info is None else self.tools.info.name,
            "cores": str(cores()),
        }
