"""What can be read off logits and off replies. Pure; what it means is decided in quality.py."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from halfwatt.errors import BadInput
from halfwatt.records import ScoredReply, TeacherScore
from halfwatt.tokenizer import ScoredTokens

Floats = NDArray[np.float64]
_CHUNK = 128  # rows at a time: a vocabulary of 150k stays below 200 MB


# --- from logits ---------------------------------------------------------------------------------------------------


def teacher_score(
    dialogue: str,
    tokens: ScoredTokens,
    reference: NDArray[np.float32],
    candidate: NDArray[np.float32],
    eos_ids: Sequence[int],
) -> TeacherScore:
    """Compare two models on the assistant's tokens of one dialogue.

    reference, candidate: logits [tokens, vocabulary]; row i predicts token i + 1.
    P(EOS) is the summed probability of every stop token. KL is KL(reference || candidate).

    Raises:
        BadInput: shapes that do not belong together, or logits that are not finite.
    """
    if reference.shape != candidate.shape or len(reference) != len(tokens.ids):
        raise BadInput(
            f"logits of {dialogue} do not belong together",
            found=f"{reference.shape} and {candidate.shape} for {len(tokens.ids)} tokens",
        )
    reply, end = np.array(tokens.reply), np.array(tokens.end)
    rows = np.flatnonzero(reply[1:])  # the rows that predict an assistant token
    if not (np.isfinite(reference[rows]).all() and np.isfinite(candidate[rows]).all()):
        raise BadInput(f"logits of {dialogue} are not finite")
    target, is_end = np.array(tokens.ids)[rows + 1], end[rows + 1]
    stops = np.array(sorted(eos_ids))
    columns = [
        _rows_score(reference[part], candidate[part], target[at], stops)
        for at in (slice(k, k + _CHUNK) for k in range(0, len(rows), _CHUNK))
        for part in (rows[at],)
    ]
    if not columns:
        raise BadInput(f"dialogue {dialogue} has no assistant token to score")
    nll_ref, nll_cand, eos_ref, eos_cand, kl, same = (np.concatenate(c) for c in zip(*columns, strict=True))
    return TeacherScore(
        dialogue=dialogue,
        tokens=len(rows),
        nll_ref=float(nll_ref.sum()),
        nll_cand=float(nll_cand.sum()),
        ends=int(is_end.sum()),
        log_p_eos_ref=float(eos_ref[is_end].sum()),
        log_p_eos_cand=float(eos_cand[is_end].sum()),
        elsewhere=int((~is_end).sum()),
        p_eos_ref=float(np.exp(eos_ref[~is_end]).sum()),
        p_eos_cand=float(np.exp(eos_cand[~is_end]).sum()),
        kl=float(kl.sum()),
        kl_max=float(kl.max()),
        top1_same=int(same.sum()),
    )


def log_softmax(logits: NDArray[np.float32]) -> Floats:
    """[rows, vocabulary] in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    found: Floats = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return found


def _rows_score(
    reference: NDArray[np.float32], candidate: NDArray[np.float32], target: NDArray[np.int64], stops: NDArray[np.int64]
) -> tuple[Floats, Floats, Floats, Floats, Floats, NDArray[np.bool_]]:
    """Per row: nll of both, log P(EOS) of both, KL, same top-1."""
    p, q = log_softmax(reference), log_softmax(candidate)
    index = np.arange(len(target))
    kl = np.maximum((np.exp(p) * (p - q)).sum(axis=1), 0.0)  # rounding may leave -1e-17
    eos_p, eos_q = (np.logaddexp.reduce(x[:, stops], axis=1) for x in (p, q))
    return -p[index, target], -q[index, target], eos_p, eos_q, kl, p.argmax(axis=1) == q.argmax(axis=1)


# --- from replies --------------------------------------------------------------------------------------------------


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
