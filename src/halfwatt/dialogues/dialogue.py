"""What the user hands us: dialogues, with split, licence and hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
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

    @property
    def opening(self) -> str:
        """The first user turn, case and white space levelled: what splits must not share."""
        first = next(m.content for m in self.messages if m.role == "user")
        return " ".join(first.casefold().split())


@dataclass(frozen=True, slots=True)
class DialogueSet:
    """Dialogues of one split."""

    dialogues: tuple[Dialogue, ...]
    split: Split
    licence: str
    sha256: str  # of the canonical JSON lines of exactly these dialogues
    skipped: tuple[str, ...] = ()  # faulty rows that were left out on request, each by file and line

    def __len__(self) -> int:
        return len(self.dialogues)

    @classmethod
    def of(
        cls, dialogues: Iterable[Dialogue], *, split: Split, licence: str, skipped: tuple[str, ...] = ()
    ) -> DialogueSet:
        """A set with its hash."""
        kept = tuple(dialogues)
        digest = hashlib.sha256()
        for dialogue in kept:
            digest.update(_canonical(dialogue))
        return cls(kept, split, licence, digest.hexdigest(), skipped)


def _canonical(dialogue: Dialogue) -> bytes:
    messages = [[m.role, m.content] for m in dialogue.messages]
    row = {"id": dialogue.id, "messages": messages, "source": dialogue.source}
    return (json.dumps(row, ensure_ascii=False, separators=(",", ":"), sort_keys=True) + "\n").encode()
