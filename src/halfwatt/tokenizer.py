"""The chat side of a tokenizer: dialogues to token ids and back. Never imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from halfwatt.dialogue import Dialogue


@dataclass(frozen=True, slots=True)
class ScoredTokens:
    """One rendered dialogue. All three have one entry a token.

    reply:  True on tokens that the assistant wrote, each turn's end-of-turn token included
    end:    True on those end-of-turn tokens
    """

    ids: tuple[int, ...]
    reply: tuple[bool, ...]
    end: tuple[bool, ...]


class ChatTokenizer:
    """A Hugging Face tokenizer with its chat template and its whole list of stop tokens."""

    template: str
    eos_ids: tuple[int, ...]
    vocab_size: int

    @classmethod
    def load(cls, folder: Path, chat_template: str | None = None) -> ChatTokenizer:
        """Read tokenizer.json, the chat template and the stop tokens of ``folder``.

        Raises:
            ModelError: no tokenizer, or no chat template and none given (names ``--chat-template FILE``).
        """
        raise NotImplementedError

    def render(self, dialogue: Dialogue, *, prompt: bool) -> str:
        """The text that the template makes; ``prompt`` adds what opens the assistant's turn."""
        raise NotImplementedError

    def prompt_ids(self, dialogue: Dialogue) -> list[int]:
        """Token ids of the rendered prompt, ready for the assistant's reply."""
        raise NotImplementedError

    def scored(self, dialogue: Dialogue) -> ScoredTokens:
        """Token ids of the whole dialogue, and which of them the assistant wrote."""
        raise NotImplementedError

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ``ids`` without special tokens."""
        raise NotImplementedError
