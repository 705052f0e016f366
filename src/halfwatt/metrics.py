"""What can be read off logits and off replies. Pure; what it means is decided in quality.py."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from halfwatt.errors import BadInput
from halfwatt.records import ScoredReply, TeacherScore
from halfwatt.renaming import Renaming
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
    ref, cand = (one_sided(dialogue, tokens, logits, eos_ids) for logits in (reference, candidate))
    rows = np.flatnonzero(np.array(tokens.reply)[1:])
    return joined(dialogue, ref, cand, _compared(reference[rows], candidate[rows]))


@dataclass(frozen=True, slots=True)
class OneSided:
    """What one model says of the assistant's tokens of one dialogue; sums in nats and probabilities."""

    tokens: int
    nll: float
    ends: int
    log_p_eos: float
    elsewhere: int
    p_eos: float


@dataclass(frozen=True, slots=True)
class Compared:
    """Two models' distributions at the same positions."""

    positions: int
    kl: float
    kl_max: float
    top1_same: int


def one_sided(dialogue: str, tokens: ScoredTokens, logits: NDArray[np.float32], eos_ids: Sequence[int]) -> OneSided:
    """One model's own tokens and logits; see `teacher_score`.

    Raises:
        BadInput: no assistant token, or logits that are not finite.
    """
    reply, end = np.array(tokens.reply), np.array(tokens.end)
    rows = np.flatnonzero(reply[1:])  # the rows that predict an assistant token
    if not len(rows):
        raise BadInput(f"dialogue {dialogue} has no assistant token to score")
    if not np.isfinite(logits[rows]).all():
        raise BadInput(f"logits of {dialogue} are not finite")
    target, is_end = np.array(tokens.ids)[rows + 1], end[rows + 1]
    stops = np.array(sorted(eos_ids))
    nll, eos = np.empty(len(rows)), np.empty(len(rows))
    for at in _parts(len(rows)):
        p = log_softmax(logits[rows[at]])
        nll[at] = -p[np.arange(len(p)), target[at]]
        eos[at] = np.logaddexp.reduce(p[:, stops], axis=1)
    return OneSided(
        tokens=len(rows),
        nll=float(nll.sum()),
        ends=int(is_end.sum()),
        log_p_eos=float(eos[is_end].sum()),
        elsewhere=int((~is_end).sum()),
        p_eos=float(np.exp(eos[~is_end]).sum()),
    )


def trimmed_score(
    dialogue: str,
    whole: tuple[ScoredTokens, NDArray[np.float32], Sequence[int]],
    trimmed: tuple[ScoredTokens, NDArray[np.float32], Sequence[int]],
    renaming: Renaming,
) -> TeacherScore:
    """`teacher_score` for a candidate whose vocabulary is the reference's with tokens taken out.

    whole, trimmed: tokens, logits and stop tokens of reference and candidate, each in its own vocabulary.
    The replies' probabilities are those of the whole texts, so they compare whatever the tokens are. KL is that of the
    reference's distribution over the kept tokens, renormalised, and only where both read the same tokens.
    """
    ref, cand = one_sided(dialogue, *whole), one_sided(dialogue, *trimmed)
    compared = Compared(0, 0.0, 0.0, 0)
    if renaming.same(whole[0].ids, trimmed[0].ids):
        rows = np.flatnonzero(np.array(whole[0].reply)[1:])
        compared = _compared(whole[1][rows][:, renaming.kept], trimmed[1][rows])
    return joined(dialogue, ref, cand, compared)


def joined(dialogue: str, ref: OneSided, cand: OneSided, compared: Compared) -> TeacherScore:
    """As one record, per token of the reference."""
    share = ref.elsewhere / cand.elsewhere if cand.elsewhere else 1.0
    return TeacherScore(
        dialogue=dialogue,
        tokens=ref.tokens,
        nll_ref=ref.nll,
        nll_cand=cand.nll,
        ends=ref.ends,
        log_p_eos_ref=ref.log_p_eos,
        log_p_eos_cand=cand.log_p_eos,
        elsewhere=ref.elsewhere,
        p_eos_ref=ref.p_eos,
        p_eos_cand=cand.p_eos * share,
        kl=compared.kl,
        kl_max=compared.kl_max,
        top1_same=compared.top1_same,
        compared=None if compared.positions == ref.tokens else compared.positions,
    )


def _compared(reference: NDArray[np.float32], candidate: NDArray[np.float32]) -> Compared:
    """Both [positions, vocabulary]."""
    kl, same = np.empty(len(reference)), np.empty(len(reference), bool)
    for at in _parts(len(reference)):
        p, q = log_softmax(reference[at]), log_softmax(candidate[at])
        kl[at] = np.maximum((np.exp(p) * (p - q)).sum(axis=1), 0.0)  # rounding may leave -1e-17
        same[at] = p.argmax(axis=1) == q.argmax(axis=1)
    return Compared(len(kl), float(kl.sum()), float(kl.max()), int(same.sum()))


def _parts(rows: int) -> Iterator[slice]:
    return (slice(k, k + _CHUNK) for k in range(0, rows, _CHUNK))


def log_softmax(logits: NDArray[np.float32]) -> Floats:
    """[rows, vocabulary] in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    found: Floats = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return found


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
