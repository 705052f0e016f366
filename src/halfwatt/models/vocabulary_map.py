"""Two vocabularies of which the second is the first with tokens taken out: the same words under other numbers.

A trimmed model writes more and shorter tokens where it lacks some: there only the probability of a whole reply can be
compared. Order is part of the rule: two words with each other's numbers are a damaged tokenizer, not a trimmed one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from halfwatt.models.tokenizer import ChatTokenizer


@dataclass(frozen=True, slots=True)
class VocabularyMap:
    """kept: int64 [trimmed vocabulary], the whole vocabulary's id of each trimmed id; rising."""

    kept: NDArray[np.int64]

    @classmethod
    def between(cls, whole: ChatTokenizer, trimmed: ChatTokenizer) -> VocabularyMap | None:
        """None where ``trimmed`` is not ``whole`` with tokens taken out; then their ids must simply be equal."""
        old, new = whole.hf.get_vocab(), trimmed.hf.get_vocab()
        if len(new) >= len(old) or not new.keys() <= old.keys():
            return None
        kept = [old[word] for word, _ in sorted(new.items(), key=lambda item: item[1])]
        if sorted(new.values()) != list(range(len(new))) or any(a >= b for a, b in pairwise(kept)):
            return None
        return cls(np.array(kept, np.int64))

    def same(self, whole: Sequence[int], trimmed: Sequence[int]) -> bool:
        """Are these the same tokens?"""
        return len(whole) == len(trimmed) and bool((self.kept[np.array(trimmed, int)] == np.array(whole, int)).all())

    def allows(self, whole: Sequence[int], trimmed: Sequence[int]) -> bool:
        """May one text be ``whole`` here and ``trimmed`` there? Where all tokens were kept they are the same."""
        return self.same(whole, trimmed) or not np.isin(np.array(whole, int), self.kept).all()
