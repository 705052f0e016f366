"""A dialogue, and a set of them with its split, licence and hash: what everything else here is asked or learns from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

Role = Literal["system", "user", "assistant"]
Split = Literal["train", "tune", "test"]


@dataclass(frozen=True, slots=True)
class Message:
    """counts: of the assistant's, is it to be learned and judged? Else it is only there for those after it to see."""

    role: Role
    content: str
    counts: bool = True

    @property
    def levelled(self) -> str:
        """Its text without differences of case and white space."""
        return " ".join(self.content.casefold().split())


@dataclass(frozen=True, slots=True)
class Dialogue:
    """Messages in order; ``source`` names the kind of traffic ("home", "service", ...)."""

    id: str
    messages: tuple[Message, ...]
    source: str = ""

    def before(self, turn: int) -> Dialogue:
        """The prompt for the assistant message at index ``turn``: all messages before it."""
        return replace(self, messages=self.messages[:turn])

    @property
    def assistant_turns(self) -> tuple[int, ...]:
        """Indices of the assistant's messages that count."""
        return tuple(i for i, m in enumerate(self.messages) if m.role == "assistant" and m.counts)


@dataclass(frozen=True, slots=True)
class DialogueSet:
    """Dialogues of one split."""

    dialogues: tuple[Dialogue, ...]
    split: Split
    licence: str
    sha256: str  # of the canonical JSON lines of exactly these dialogues
    skipped: tuple[str, ...] = ()  # faulty rows of their file that were left out on request, each by file and line

    def __len__(self) -> int:
        return len(self.dialogues)

    @classmethod
    def of(cls, dialogues: Iterable[Dialogue], *, split: Split, licence: str, skipped: tuple[str, ...] = ()) -> Self:
        """A set with its hash."""
        members, digest = tuple(dialogues), hashlib.sha256()
        for d in members:
            messages = [[m.role, m.content, *([] if m.counts else [False])] for m in d.messages]
            row = {"id": d.id, "messages": messages, "source": d.source}
            line = json.dumps(row, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
            digest.update(f"{line}\n".encode())
        return cls(members, split, licence, digest.hexdigest(), skipped)

    def subset(self, dialogues: Iterable[Dialogue], split: Split | None = None) -> DialogueSet:
        """Some of its dialogues, with all that is known of where they came from."""
        return DialogueSet.of(dialogues, split=split or self.split, licence=self.licence, skipped=self.skipped)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a result on these dialogues must say of their file; the same for every part of it."""
        rows = "1 faulty row was" if len(self.skipped) == 1 else f"{len(self.skipped)} faulty rows were"
        return (f"{rows} left out: {first_faults(self.skipped)}",) if self.skipped else ()


def first_faults(faults: Sequence[str], most: int = 10) -> str:
    """Faults on one line: the first ``most``, and how many more there are."""
    more = f"; and {len(faults) - most} more" if len(faults) > most else ""
    return "; ".join(faults[:most]) + more
