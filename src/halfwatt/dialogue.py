"""Dialogues: what a user hands us, with its split, licence and hash."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["system", "user", "assistant"]
Split = Literal["train", "tune", "test"]


@dataclass(frozen=True, slots=True)
class Message:
    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Dialogue:
    """Messages in order; ``source`` names the kind of traffic ("home", "service", ...)."""

    id: str
    messages: tuple[Message, ...]
    source: str = ""

    def before(self, turn: int) -> Dialogue:
        """The prompt for the assistant message at index ``turn``: all messages before it."""
        return Dialogue(self.id, self.messages[:turn], self.source)

    @property
    def assistant_turns(self) -> tuple[int, ...]:
        """Indices of the assistant's messages."""
        return tuple(i for i, m in enumerate(self.messages) if m.role == "assistant")


@dataclass(frozen=True, slots=True)
class DialogueSet:
    """Dialogues of one split."""

    dialogues: tuple[Dialogue, ...]
    split: Split
    licence: str
    sha256: str  # of the canonical JSON lines of exactly these dialogues

    def __len__(self) -> int:
        return len(self.dialogues)
