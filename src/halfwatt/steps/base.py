"""What a step is: a frozen dataclass that makes a new model from a model."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, ClassVar, Protocol

if TYPE_CHECKING:
    from halfwatt.chat_model import ChatModel


class Stage(IntEnum):
    """The order in which steps make sense: later stages never undo what an earlier one made."""

    STRUCTURE = 1  # prune, trim
    RECOVERY = 2  # distil
    NUMERICS = 3  # quantize
    DECODING = 4  # decode


@dataclass(frozen=True, slots=True)
class StepContext:
    """What a step may use besides the model."""

    seed: int = 0


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
