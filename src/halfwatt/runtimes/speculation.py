"""Guesses at the next tokens of a reply that cost next to nothing; the model checks all of them in one pass. Pure.

A draft is deterministic, so the reply is what it would have been without: the token that is sampled after each
position is the model's own, and drafted ones are kept only while they are that token (Leviathan et al. 2023, arXiv
2211.17192, with a draft that is certain). A pass over a few tokens reads the weights once.

    table     after these last tokens the model mostly says this one: n-grams, counted once (compress/ngram_draft.py)
    lookup    what followed the last time when the same tokens stood in this dialogue: prompt lookup, Saxena 2023
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from halfwatt.models.ngram_table import Context, NgramTable

_NGRAM = 3  # tokens that a lookup must find again


@dataclass(slots=True)
class TableDrafter:
    """Follows the table for as long as all of the guesses together are likely enough."""

    table: NgramTable
    least: float  # probability that the whole draft is right
    heard: list[int] = field(default_factory=list)

    def hear(self, tokens: Iterable[int]) -> None:
        """The next tokens of the dialogue, prompt and reply alike; only the last few matter."""
        self.heard = [*self.heard, *tokens][-self.table.order :]

    def guess(self, most: int) -> list[int]:
        """The tokens that may come next, at most so many, until it is unsure."""
        context, drafted, sure = list(self.heard), list[int](), 1.0
        while len(drafted) < most:
            guess = self.table.after(context)
            if guess is None or (sure := sure * guess.share) < self.least:
                break
            drafted.append(guess.token)
            context.append(guess.token)
        return drafted


@dataclass(slots=True)
class LookupDrafter:
    """Repeats what followed the last time when the last tokens stood in this dialogue."""

    heard: list[int] = field(default_factory=list)
    ends: dict[Context, int] = field(default_factory=dict)  # where each n-gram ended before, the last one left out

    def hear(self, tokens: Iterable[int]) -> None:
        """The next tokens, likewise. Every n-gram is known as soon as another token has followed it."""
        for token in tokens:
            if len(self.heard) >= _NGRAM:
                self.ends[tuple(self.heard[-_NGRAM:])] = len(self.heard)
            self.heard.append(token)

    def guess(self, most: int) -> list[int]:
        """What followed then, at most so many tokens; none where nothing did."""
        at = self.ends.get(tuple(self.heard[-_NGRAM:]))
        return [] if at is None else self.heard[at : at + most]


Drafter = TableDrafter | LookupDrafter
"""Guesses for one reply; it hears every token as it comes."""
