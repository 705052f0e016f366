"""What mostly follows what: n-grams, counted once, as a table that guesses the next token. Pure, but for its file."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
        guesses = (self.follows.get(tuple(context[-n:])) for n in range(self.order, 0, -1))
        return next(filter(None, guesses), None)


def count_ngrams(
    sequences: Iterable[tuple[Sequence[int], Sequence[tuple[int, int]]]], order: int, least: int = 2
) -> NgramTable:
    """A table of what follows what.

    sequences: the tokens of a dialogue, and (position, token): what the model says after ``tokens[:position]``
    least:     times that a context must have been seen
    """
    seen: defaultdict[Context, Counter[int]] = defaultdict(Counter)
    for tokens, choices in sequences:
        for at, token in choices:
            for n in range(1, min(order, at) + 1):
                seen[tuple(tokens[at - n : at])][token] += 1
    often = {context: counts for context, counts in seen.items() if counts.total() >= least}
    best = {context: counts.most_common(1)[0] for context, counts in often.items()}
    return NgramTable({c: Guess(token, times / often[c].total()) for c, (token, times) in best.items()}, order)


def write_table(table: NgramTable, path: Path) -> None:
    """As safetensors: contexts int32 [entries, order], padded with -1 in front; tokens int32; shares float32."""
    from safetensors.numpy import save_file

    padded = [(-1,) * (table.order - len(context)) + context for context in table.follows]
    arrays: dict[str, NDArray[Any]] = {
        "contexts": np.array(padded, np.int32).reshape(-1, table.order),
        "tokens": np.array([g.token for g in table.follows.values()], np.int32),
        "shares": np.array([g.share for g in table.follows.values()], np.float32),
    }
    save_file(arrays, path)


def read_table(path: Path) -> NgramTable:
    """Read `write_table`'s file.

    Raises:
        ModelError: it is not one.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        arrays = load_file(path)
        rows = zip(*(arrays[name].tolist() for name in ("contexts", "tokens", "shares")), strict=True)
        follows = {tuple(i for i in context if i >= 0): Guess(token, share) for context, token, share in rows}
        return NgramTable(follows, arrays["contexts"].shape[1])
    except (OSError, SafetensorError, KeyError, ValueError, IndexError) as error:
        raise ModelError(f"{path} holds no draft table", got=str(error), hint="export the model again") from error
