"""What mostly follows what: n-grams, counted once, as a table that guesses the next token. Pure, but for its file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from halfwatt.core.errors import ModelError

Context = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Guess:
    """The likeliest next token, and the share of times when it was that."""

    token: int
    share: float


@dataclass(frozen=True, slots=True)
class NgramTable:
    """What mostly follows each context; the longest context that is known decides."""

    follows: Mapping[Context, Guess]
    order: int  # tokens of the longest context

    def after(self, context: Sequence[int]) -> Guess | None:
        """The guess after these tokens."""
        for n in range(self.order, 0, -1):
            following = self.follows.get(tuple(context[-n:]))
            if following is not None:
                return following
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
    def of_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> NgramTable:
        """`arrays`, read back."""
        contexts: list[list[int]] = arrays["contexts"].tolist()
        rows = zip(contexts, arrays["tokens"].tolist(), arrays["shares"].tolist(), strict=True)
        follows = {tuple(i for i in context if i >= 0): Guess(token, share) for context, token, share in rows}
        return cls(follows, arrays["contexts"].shape[1])


def count_ngrams(
    sequences: Iterable[tuple[Sequence[int], Sequence[tuple[int, int]]]], order: int, least: int = 2
) -> NgramTable:
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
    return NgramTable(follows, order)


def write_table(table: NgramTable, path: Path) -> None:
    """As safetensors."""
    from safetensors.numpy import save_file

    save_file(table.arrays(), path)


def read_table(path: Path) -> NgramTable:
    """Read `write`'s file.

    Raises:
        ModelError: it is not one.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return NgramTable.of_arrays(load_file(path))
    except (OSError, SafetensorError, KeyError, ValueError, IndexError) as error:
        raise ModelError(f"{path} holds no draft table", got=str(error), hint="export the model again") from error
