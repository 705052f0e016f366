"""What is plainly wrong with a generated reply, how near it is to the human one, how diverse many of them are.

A word is what stands between spaces; in scripts that are written without them, such as Chinese, Japanese or Thai, each
character is one. So a loop is a loop, and diversity means the same, in every language.

Pure. Whether a figure is good enough is decided in `halfwatt.evaluate.gate` (G3 and G5).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any
from zlib import crc32

import numpy as np

from halfwatt.core.statistics import Clustered, Floats, jackknife
from halfwatt.evaluate.records import ScoredReply

# Thai, Lao, Tibetan, Burmese; Khmer; kana; Chinese characters, also those of Japanese, with the iteration mark
_UNSPACED = "\u0e00-\u109f\u1780-\u17ff\u3005\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(f"[{_UNSPACED}]|[^\\s{_UNSPACED}]+")
_SENTENCE_END = re.compile("[.!?\n\u3002\uff01\uff1f]+")

_NAMES = "distinct-2", "bigram entropy"
_NO_DIVERSITY = 1e-9  # sums of logarithms that cancel leave a rest
RUNS_ON, LOOPS = "runs to the cap", ("repeats itself", "same sentence three times")


def words(text: str) -> list[str]:
    """In order.

    >>> words("Turn on 3 lights. \u597d\u7684\u3002")
    ['Turn', 'on', '3', 'lights.', '\u597d', '\u7684', '\u3002']
    """
    return _WORD.findall(text)


def flags(reply: ScoredReply, special: Sequence[str]) -> tuple[str, ...]:
    """What is plainly wrong with a reply, whatever it says. special: texts that a reply must never show."""
    text = reply.text
    faults = {
        "empty": not text.strip(),
        RUNS_ON: not reply.stopped,
        LOOPS[0]: repetition(words(text)) > 0.5,
        LOOPS[1]: _sentence_repeats(text) >= 3,
        "template tokens leaked": reply.leaked > 0 or any(token in text for token in special),
        "broken characters": "\ufffd" in text,
    }
    return tuple(name for name, present in faults.items() if present)


def repetition(said: Sequence[str], n: int = 4) -> float:
    """rep-n: the share of n-grams that occurred before in the same text (Welleck et al., 2019)."""
    grams = [tuple(said[i : i + n]) for i in range(len(said) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def _sentence_repeats(text: str) -> int:
    """How often the most frequent sentence of two or more words occurs."""
    sentences = [s.strip().casefold() for s in _SENTENCE_END.split(text)]
    return max(Counter(s for s in sentences if len(words(s)) >= 2).values(), default=0)


def chrf(text: str, reference: str) -> float:
    """Sentence chrF, 0 to 100, as sacrebleu computes it (Popović, 2015)."""
    from sacrebleu import sentence_chrf

    return float(sentence_chrf(text, [reference]).score)


def equally_long(ref: list[str], cand: list[str], place: float) -> tuple[list[str], list[str]]:
    """As many words of both; of the longer a stretch, ``place`` of the way (0 to 1) into it.

    Of a longer text fewer bigrams are new, and more different words follow each (Liu et al., 2022, for distinct-n); how
    it begins is often but a phrase. Two words of the reference at least: who says one, or none, loses something.
    """
    return _stretch(ref, max(2, len(cand)), place), _stretch(cand, len(ref), place)


def _stretch(said: list[str], count: int, place: float) -> list[str]:
    start = int(place * (1 + max(0, len(said) - count)))
    return said[start : start + count]


def diversity_changes(
    pairs: Sequence[Sequence[tuple[ScoredReply, ScoredReply]]], *, at_equal_length: bool
) -> dict[str, Clustered]:
    """Relative changes of distinct-2 and bigram entropy from reference to candidate, where the reference has any.

    at_equal_length: of `equally_long` replies; of whole ones where those are too short to show any
    """
    whole = [[(words(ref.text.casefold()), words(cand.text.casefold())) for ref, cand in group] for group in pairs]
    if not at_equal_length:
        return _changes(whole)
    alike = [
        [equally_long(*said, _place(ref)) for said, (ref, _) in zip(replies, group, strict=True)]
        for replies, group in zip(whole, pairs, strict=True)
    ]
    changes = _changes(alike)
    return changes if len(changes) == len(_NAMES) else _changes(whole) | changes


def _place(reply: ScoredReply) -> float:
    """Drawn once and for all for each request."""
    return crc32(f"{reply.dialogue} {reply.turn} {reply.seed}".encode()) / 2**32


def _changes(said: Sequence[Sequence[tuple[list[str], list[str]]]]) -> dict[str, Clustered]:
    ref, cand = (diversity([[both[k] for both in replies] for replies in said]) for k in (0, 1))
    return {
        name: jackknife(c / r - 1, c_without / r_without - 1)
        for name, (r, r_without), (c, c_without) in zip(_NAMES, ref, cand, strict=True)
        if min(r, *r_without) > _NO_DIVERSITY
    }


def diversity(said: Sequence[Sequence[Sequence[str]]]) -> tuple[tuple[float, Floats], tuple[float, Floats]]:
    """Distinct-2 (Li et al., 2016) and conditional bigram entropy of all replies, with and without each dialogue.

        distinct-2 = different bigrams / bigrams,   H(w2 | w1) = (sum c1 log c1 - sum c12 log c12) / N   [nats]

    c12 counts a bigram, c1 its first word. Without a dialogue only the terms of its own bigrams change.

    said: per dialogue, the words of each reply. Returns ((distinct-2, [dialogues]), (entropy, [dialogues])).
    """
    by_dialogue = [Counter(pair for reply in replies for pair in pairwise(reply)) for replies in said]
    pairs: Counter[tuple[str, str]] = Counter()
    for own in by_dialogue:
        pairs.update(own)
    heads, n = _heads(pairs), pairs.total()
    pair_sum, head_sum = (sum(c * np.log(c) for c in counts.values()) for counts in (pairs, heads))
    distinct, entropy = np.empty(len(said)), np.empty(len(said))
    for d, own in enumerate(by_dialogue):
        left = max(1, n - own.total())
        distinct[d] = (len(pairs) - sum(pairs[pair] == count for pair, count in own.items())) / left
        head_part, pair_part = head_sum + _change(heads, _heads(own)), pair_sum + _change(pairs, own)
        entropy[d] = (head_part - pair_part) / left
    return (len(pairs) / max(1, n), distinct), (float(head_sum - pair_sum) / max(1, n), entropy)


def _heads(pairs: Counter[tuple[str, str]]) -> Counter[str]:
    heads: Counter[str] = Counter()
    for (first, _), count in pairs.items():
        heads[first] += count
    return heads


def _change(counts: Counter[Any], removed: Counter[Any]) -> float:
    """By how much ``sum c log c`` changes when ``removed`` is taken from ``counts``."""
    change = 0.0
    for key, count in removed.items():
        left = counts[key] - count
        change += float((left * np.log(left) if left else 0.0) - counts[key] * np.log(counts[key]))
    return change
