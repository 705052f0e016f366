"""How usual it is what a person says: a bigram model of what was said in the dialogues that a student was taught on.

    p(b | a) = (n(a, b) + k(a) p(b)) / (n(a) + k(a))     n: counts; k(a): different tokens seen after a
    p(b)     = (n(b) + k / V) / (n + k)                  k: different tokens; V: all of the vocabulary

Smoothed as Witten and Bell (1991, method C). Its surprisal, in nats a byte, tells what a student was taught from what
it was not better than the student's own likelihoods do (docs/cascade.md has the measurement), and takes no pass. Pure,
but for its file.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from halfwatt.core.errors import ModelError
from halfwatt.dialogues.dialogue import Dialogue

Pair = tuple[int, int]


class BigramModel:
    """Of texts as token ids. A text begins after the id ``vocabulary`` and ends with it."""

    def __init__(self, pairs: Mapping[Pair, int], vocabulary: int) -> None:
        """pairs: how often each token followed each other; vocabulary: number of token ids"""
        self.pairs, self.vocabulary = dict(pairs), vocabulary
        self._after, self._kinds, self._single = Counter[int](), Counter[int](), Counter[int]()
        for (first, second), count in self.pairs.items():
            self._after[first] += count
            self._kinds[first] += 1
            self._single[second] += count
        self._all = self._single.total()

    @classmethod
    def counted(cls, texts: Iterable[Sequence[int]], vocabulary: int) -> BigramModel:
        """From texts, as token ids."""
        return cls(Counter(pair for text in texts for pair in _pairs(text, vocabulary)), vocabulary)

    def nats(self, text: Sequence[int]) -> float:
        """-log p of a text and its end."""
        return -sum(map(self._log_p, _pairs(text, self.vocabulary)))

    def _log_p(self, pair: Pair) -> float:
        first, second = pair
        kinds = len(self._single) or 1  # where nothing was seen, all are alike
        p = (self._single[second] + kinds / (self.vocabulary + 1)) / (self._all + kinds)
        if seen := self._after[first]:
            different = self._kinds[first]
            p = (self.pairs.get(pair, 0) + different * p) / (seen + different)
        return math.log(p)


def _pairs(text: Sequence[int], edge: int) -> Iterable[Pair]:
    return pairwise((edge, *text, edge))


def words_said(dialogue: Dialogue) -> list[str]:
    """What the person says in a dialogue, text by text: what is counted, and what is asked about."""
    return [message.content.strip() for message in dialogue.messages if message.role == "user"]


def surprisal(model: BigramModel, encode: Callable[[str], Sequence[int]], dialogue: Dialogue) -> float:
    """Nats a byte of all that the person has said so far; a short "yes, please" says little by itself."""
    said = words_said(dialogue)
    return sum(model.nats(encode(text)) for text in said) / max(1, sum(1 + len(text.encode()) for text in said))


def write_bigrams(model: BigramModel, path: Path) -> None:
    """As safetensors: pairs int32 [n, 2], counts int32 [n], vocabulary int32 [1]."""
    from safetensors.numpy import save_file

    rows = sorted(model.pairs.items())
    arrays = {
        "pairs": np.array([pair for pair, _ in rows], np.int32).reshape(-1, 2),
        "counts": np.array([count for _, count in rows], np.int32),
        "vocabulary": np.array([model.vocabulary], np.int32),
    }
    save_file(arrays, path)


def read_bigrams(path: Path) -> BigramModel:
    """Read `write_bigrams`'s file.

    Raises:
        ModelError: it is not one.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        arrays = load_file(path)
        pairs, counts, [vocabulary] = arrays["pairs"], arrays["counts"], arrays["vocabulary"].tolist()
        known = {(first, second): count for (first, second), count in zip(pairs.tolist(), counts.tolist(), strict=True)}
    except (OSError, KeyError, ValueError, TypeError, SafetensorError) as error:
        raise ModelError(f"{path} is not a bigram model", got=str(error)) from error
    return BigramModel(known, vocabulary)
