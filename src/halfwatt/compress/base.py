"""What a step is: a frozen dataclass that makes a new model from a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from halfwatt.compress.training.loop import TrainingBudget, TrainingEnvironment
from halfwatt.core.errors import ModelError
from halfwatt.core.settings import Precision
from halfwatt.core.types import Progress
from halfwatt.dialogues.dialogue import Dialogue
from halfwatt.meters.base import EnergyMeter

if TYPE_CHECKING:
    from halfwatt.models.chat_model import ChatModel


class Stage(IntEnum):
    """The order in which steps make sense: later stages never undo what an earlier one made."""

    STRUCTURE = 1  # prune, trim
    RECOVERY = 2  # distil
    NUMERICS = 3  # quantize
    DECODING = 4  # draft


@dataclass(frozen=True, slots=True)
class StepContext:
    """What a step may use besides the model.

    dialogues:  to calibrate and train on: never those that choose or judge
    original:   the model that the recipe began with, for steps that distil from it
    work:       folder of the checkpoints, one every ``checkpoint_s``; None = none are written
    shared:     folder of files that other recipes can use too, each named by what is in it; None = none are kept
    precision:  of what is trained, see `Settings`
    """

    dialogues: tuple[Dialogue, ...] = ()
    original: ChatModel | None = None
    work: Path | None = None
    shared: Path | None = None
    device: str = "cpu"
    precision: Precision = "auto"
    seed: int = 0
    budget: TrainingBudget = field(default_factory=TrainingBudget)
    meter: EnergyMeter | None = None
    progress: Progress = lambda _: None
    checkpoint_s: float = 120.0

    @property
    def fingerprint(self) -> str:
        """Names what steps may learn from; "" where there is nothing."""
        if not self.dialogues:
            return ""
        text = repr((self.seed, self.budget, [d.messages for d in self.dialogues]))
        return sha256(text.encode()).hexdigest()

    def some(self, count: int, *draw: int) -> tuple[Dialogue, ...]:
        """At most ``count`` dialogues, drawn at random: a file may hold one kind of traffic after another.

        draw: names another draw than the usual one
        """
        if count >= len(self.dialogues):
            return self.dialogues
        drawn = np.random.default_rng((self.seed, *draw)).choice(len(self.dialogues), count, replace=False)
        return tuple(self.dialogues[i] for i in sorted(drawn.tolist()))

    def bench(self, step: str, pad_id: int) -> TrainingEnvironment:
        """Where a step's training works."""
        folder = None if self.work is None else self.work / step.replace(" ", "-")
        return TrainingEnvironment(
            self.device, folder, pad_id, self.budget, self.meter, self.progress, self.checkpoint_s
        )


class Step(Protocol):
    """The fields of a step are its configuration; its ``repr`` identifies it in a recipe's fingerprint."""

    name: ClassVar[str]
    stage: ClassVar[Stage]
    source: ClassVar[str]  # where the method comes from

    def problems(self, model: ChatModel, /) -> list[str]:
        """Every reason why this step cannot be applied, before any work is done; empty = it can."""
        ...

    def apply(self, model: ChatModel, context: StepContext, /) -> ChatModel:
        """A new model; the one given stays as it was."""
        ...


def require(step: Step, model: ChatModel) -> None:
    """See that a step fits.

    Raises:
        ModelError: it does not; every reason is named.
    """
    problems = step.problems(model)
    if problems:
        raise ModelError(f"{step.name} cannot be applied", got="; ".join(problems))


@runtime_checkable
class Structural(Step, Protocol):
    """A step that changes the network's shapes."""

    def sizes(self, model: ChatModel, dialogues: Sequence[Dialogue], /) -> dict[str, Any]:
        """The entries of the config that it will change; weights are not looked at."""
        ...
