"""Figures of generated replies."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from halfwatt.evaluate.records import ScoredReply

Floats = NDArray[np.float64]


def flags(reply: ScoredReply, special: Sequence[str]) -> tuple[str, ...]:
    """What is plainly wrong with a reply, whatever it says."""
    text = reply.text
    found = {
        "empty": not text.strip(),
        "runs to the cap": not reply.stopped,
        "repeats itself": repetition(text.split()) > 0.5,
        "same sentence three times": _most_said(text) >= 3,
        "template tokens leaked": reply.leaked > 0 or any(token in text for token in special),
        "broken characters": "\ufffd" in text,
    }
    return tuple(name for name, present in found.items() if present)


def repetition(words: Sequence[str], n: int = 4) -> float:
    """rep-n: the share of n-grams that occurred before in the same text (Welleck et al., 2019)."""
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def _most_said(text: str) -> int:
    """How often the most frequent sentence of two or more words is said."""
    sentences = [s.strip().casefold() for s in re.split(r"[.!?\n]+", text)]
    counts = Counter(s for s in sentences if len(s.split()) >= 2)
    return max(counts.values(), default=0)


def chrf(text: str, reference: str) -> float:
    """Sentence chrF, 0 to 100, as sacrebleu computes it."""
    from sacrebleu import sentence_chrf

    return float(sentence_chrf(text, [reference]).score)


def diversity(texts: Sequence[Sequence[str]]) -> tuple[tuple[float, Floats], tuple[float, Floats]]:
    """Distinct-2 and conditional bigram entropy of all replies, each with its value without every single dialogue.

        distinct-2 = different bigrams / bigrams,   H(w2 | w1) = (sum c1 log c1 - sum c12 log c12) / N   [nats]

    texts: per dialogue, its replies. Returns ((distinct-2, [dialogues]), (entropy, [dialogues])).
    """
    per_dialogue = [_bigrams(replies) for replies in texts]
    pairs: Counter[tuple[str, str]] = sum(per_dialogue, Counter())
    heads: Counter[str] = Counter()
    for (first, _), count in pairs.items():
        heads[first] += count
    total = pairs.total()
    pair_sum, head_sum = (sum(c * np.log(c) for c in counts.values()) for counts in (pairs, heads))
    distinct_without, entropy_without = np.empty(len(texts)), np.empty(len(texts))
    for d, own in enumerate(per_dialogue):
        left = total - own.total()
        gone = sum(pairs[pair] == count for pair, count in own.items())
        own_heads: Counter[str] = Counter()
        for (first, _), count in own.items():
            own_heads[first] += count
        pair_part = pair_sum + sum(_change(pairs[pair], count) for pair, count in own.items())
        head_part = head_sum + sum(_change(heads[head], count) for head, count in own_heads.items())
        distinct_without[d] = (len(pairs) - gone) / max(1, left)
        entropy_without[d] = (head_part - pair_part) / max(1, left)
    whole = (len(pairs) / max(1, total), (head_sum - pair_sum) / max(1, total))
    return (float(whole[0]), distinct_without), (float(whole[1]), entropy_without)


def _change(count: int, taken: int) -> float:
    """By how much ``c log c`` changes when ``taken`` of ``count`` go."""
    left = count - taken
    return float((left * np.log(left) if left else 0.0) - count * np.log(count))


def _bigrams(replies: Sequence[str]) -> Counter[tuple[str, str]]:
    return Counter(pair for reply in replies for pair in pairwise(reply.casefold().split()))
