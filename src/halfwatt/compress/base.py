"""What a step is: a frozen dataclass that makes a new model from a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import IntEnum
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from halfwatt.core.errors import ModelError
from halfwatt.core.settings import RunSettings
from halfwatt.dialogues.dialogue import Dialogue
from halfwatt.meters.base import EnergyMeter

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from halfwatt.compress.training.teacher_cache import RuntimeTeacher
    from halfwatt.models.chat_model import ChatModel
    from halfwatt.models.tokenizer import ChatTokenizer

    Asking = Callable[[ChatTokenizer], AbstractContextManager[RuntimeTeacher]]

WIDTH = 64  # widths that a step chooses are multiples of it


class Stage(IntEnum):
    """The order in which steps make sense: later stages never undo what an earlier one made."""

    STRUCTURE = 1  # prune, trim
    RECOVERY = 2  # distil
    NUMERICS = 3  # quantize
    DECODING = 4  # draft


@dataclass(frozen=True, slots=True)
class TrainingBudget:
    """When to stop before the epochs are over; the learning rate falls along whichever is used up first."""

    tokens: int | None = None
    minutes: float | None = None
    joules: float | None = None  # needs a meter that measures


@dataclass(frozen=True, slots=True)
class StepContext:
    """What a step may use besides the model.

    dialogues:    to calibrate and train on: never those that choose or judge
    original:     the model that the recipe began with, for steps that distil from it
    asking:       opens it as a teacher, where it can only be run; takes the tokenizer that its student has
    settings:     the run's, for its seed, precision and progress
    device:       where to train, "auto" decided
    cache:        folder of what other recipes can use too: finished steps, a teacher's answers; None = nothing is kept
    checkpoints:  folder of this step's training, which goes on from what is there; None = none are written
    """

    dialogues: tuple[Dialogue, ...] = ()
    original: ChatModel | None = None
    settings: RunSettings = field(default_factory=RunSettings)
    device: str = "cpu"
    meter: EnergyMeter | None = None
    budget: TrainingBudget = field(default_factory=TrainingBudget)
    cache: Path | None = None
    checkpoints: Path | None = None
    checkpoint_s: float = 120.0  # between two
    asking: Asking | None = None

    @property
    def fingerprint(self) -> str:
        """Names what steps may learn from; "" where there is nothing."""
        if not self.dialogues:
            return ""
        text = repr((self.settings.seed, self.budget, [d.messages for d in self.dialogues]))
        return sha256(text.encode()).hexdigest()

    def some(self, count: int, *draw: int) -> tuple[Dialogue, ...]:
        """At most ``count`` dialogues, drawn at random: a file may hold one kind of traffic after another.

        draw: names another draw than the usual one
        """
        if count >= len(self.dialogues):
            return self.dialogues
        random = np.random.default_rng((self.settings.seed, *draw))
        return tuple(self.dialogues[i] for i in sorted(random.choice(len(self.dialogues), count, replace=False)))


class Step(Protocol):
    """The fields of a step are its configuration; its ``repr`` identifies it in a recipe's fingerprint."""

    name: ClassVar[str]
    stage: ClassVar[Stage]
    opens: ClassVar[bool] = True  # the network: what can only be run is refused
    trains: ClassVar[bool] = False  # weights: such a step is metered, and its model's ``spent`` tells what it took

    def problems(self, model: ChatModel, /) -> list[str]:
        """Every reason why this step cannot be applied, before any work is done; empty = it can."""
        ...

    def sizes(self, _model: ChatModel, _dialogues: Sequence[Dialogue], /) -> dict[str, Any]:
        """The entries of the config that it will change; weights are not looked at."""
        return {}

    def resized(self, model: ChatModel, dialogues: Sequence[Dialogue], /) -> PreTrainedModel:
        """A network of the sizes that it will make, with any weights: what a plan needs to know."""
        from halfwatt.models.surgery import resized

        return resized(model.network, self.sizes(model, dialogues))

    def apply(self, model: ChatModel, context: StepContext, /) -> ChatModel:
        """A new model; the one given stays as it was."""
        ...


def problems_of(step: Step, model: ChatModel) -> list[str]:
    """Every reason why a step cannot be applied to a model; empty = it can."""
    if model.run_only and step.opens:
        return [f"the original can only be run: {model.run_only}"]
    return step.problems(model)


def require(step: Step, model: ChatModel) -> None:
    """See that a step fits.

    Raises:
        ModelError: it does not; every reason is named.
    """
    if problems := problems_of(step, model):
        raise ModelError(f"{step.name} cannot be applied", got="; ".join(problems))
