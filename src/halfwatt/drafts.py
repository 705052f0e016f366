"""Guesses at the next tokens of a reply that cost next to nothing; the model checks all of them in one pass. Pure.

A draft is deterministic, so what the model would have said anyway is said: the token that is sampled after each
position is the model's own, and drafted ones are kept only while they are that token (Leviathan et al. 2023, arXiv
2211.17192, with a draft that is certain). A pass over a few tokens reads the weights once.

    table     after these last tokens the model mostly says this one: n-grams, counted once (steps/draft.py)
    lookup    what followed the last time when the same tokens stood in this dialogue: prompt lookup, Saxena 2023
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from halfwatt.errors import ModelError

Context = tuple[int, ...]
_NGRAM = 3  # tokens that a lookup must find again


class Drafter(Protocol):
    """Guesses for one reply; it is told every token as it comes."""

    def hear(self, tokens: Iterable[int]) -> None:
        """The next tokens of the dialogue, prompt and reply alike."""
        ...

    def guess(self, most: int) -> list[int]:
        """The tokens that may come next, at most so many; none where it has no idea."""
        ...


@dataclass(frozen=True, slots=True)
class Guess:
    """The likeliest next token, and the share of times when it was that."""

    token: int
    share: float


@dataclass(frozen=True, slots=True)
class Table:
    """What mostly follows each context; the longest context that is known decides."""

    follows: Mapping[Context, Guess]
    order: int  # tokens of the longest context

    def after(self, context: Sequence[int]) -> Guess | None:
        """The guess after these tokens."""
        for n in range(self.order, 0, -1):
            found = self.follows.get(tuple(context[-n:]))
            if found is not None:
                return found
        return None

    def arrays(self) -> dict[str, NDArray[np.int32] | NDArray[np.float32]]:
        """To be stored: contexts int32 [entries, order], padded with -1 in front; tokens int32; shares float32."""
        padded = [(-1,) * (self.order - len(context)) + context for context in self.follows]
        guesses = list(self.follows.values())
        return {
            "contexts": np.array(padded, np.int32).reshape(-1, self.order),
            "tokens": np.array([g.token for g in guesses], np.int32),
            "shares": np.array([g.share for g in guesses], np.float32),
        }

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> Table:
        """`arrays`, read back."""
        contexts: list[list[int]] = arrays["contexts"].tolist()
        rows = zip(contexts, arrays["tokens"].tolist(), arrays["shares"].tolist(), strict=True)
        follows = {tuple(i for i in context if i >= 0): Guess(token, share) for context, token, share in rows}
        return cls(follows, arrays["contexts"].shape[1])


def counted(sequences: Iterable[tuple[Sequence[int], Sequence[tuple[int, int]]]], order: int, least: int = 2) -> Table:
    """A table of what follows what.

    Args:
        sequences: the tokens of a dialogue, and (position, token): what the model says after ``tokens[:position]``.
        order: tokens of the longest context.
        least: times that a context must have been seen.
    """
    seen: dict[Context, dict[int, int]] = {}
    for tokens, said in sequences:
        for at, token in said:
            for n in range(1, min(order, at) + 1):
                counts = seen.setdefault(tuple(tokens[at - n : at]), {})
                counts[token] = counts.get(token, 0) + 1
    follows = {}
    for context, counts in seen.items():
        total = sum(counts.values())
        token = max(counts, key=lambda t: counts[t])
        if total >= least:
            follows[context] = Guess(token, counts[token] / total)
    return Table(follows, order)


# --- drafters ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class FromTable:
    """Follows the table for as long as all of the guesses together are likely enough."""

    table: Table
    least: float  # probability that the whole draft is right
    heard: list[int] = field(default_factory=list)

    def hear(self, tokens: Iterable[int]) -> None:
        """Only the last few tokens matter."""
        self.heard = [*self.heard, *tokens][-self.table.order :]

    def guess(self, most: int) -> list[int]:
        """Until it is unsure."""
        context, drafted, sure = list(self.heard), list[int](), 1.0
        while len(drafted) < most:
            found = self.table.after(context)
            if found is None or (sure := sure * found.share) < self.least:
                break
            drafted.append(found.token)
            context.append(found.token)
        return drafted


@dataclass(slots=True)
class Lookup:
    """Repeats what followed the last time when the last tokens stood in this dialogue."""

    heard: list[int] = field(default_factory=list)
    ends: dict[Context, int] = field(default_factory=dict)  # where each n-gram ended before, the last one left out

    def hear(self, tokens: Iterable[int]) -> None:
        """Every n-gram is known as soon as another token has followed it."""
        for token in tokens:
            if len(self.heard) >= _NGRAM:
                self.ends[tuple(self.heard[-_NGRAM:])] = len(self.heard)
            self.heard.append(token)

    def guess(self, most: int) -> list[int]:
        """What followed then."""
        at = self.ends.get(tuple(self.heard[-_NGRAM:]))
        return [] if at is None else self.heard[at : at + most]


# --- on disk ----------------------------------------------------------------------------------------------------------


def write(table: Table, path: Path) -> None:
    """As safetensors."""
    from safetensors.numpy import save_file

    save_file(table.arrays(), path)


def read(path: Path) -> Table:
    """Read `write`'s file.

    Raises:
        ModelError: it is not one.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return Table.of_arrays(load_file(path))
    except (OSError, SafetensorError, KeyError, ValueError, IndexError) as error:
        raise ModelError(f"{path} holds no draft table", found=str(error), hint="export the model again") from error
