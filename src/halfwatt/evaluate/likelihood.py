"""How likely two models find the human replies: what the gate's layers G1 and G2 read, computed from logits.

Both models are given the dialogue as it stands (teacher-forced) and asked at every position of an assistant turn for
the next token; nothing is generated, so nothing is noise. Sums over each dialogue are kept: it is the unit of the gate,
and a ratio of sums is weighted by tokens as perplexity is.

    nll       sum of -log p(token)                               nats
    P(EOS)    sum of p over every stop token, at true ends (as log) and elsewhere
    KL        sum over positions of KL(p_ref || p_cand)          nats

Pure. In float64, a few rows at a time. What the sums mean is decided in `halfwatt.evaluate.gate`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from halfwatt.core.errors import BadInput
from halfwatt.core.statistics import Floats
from halfwatt.evaluate.records import TeacherScore
from halfwatt.models.tokenizer import ScoredTokens
from halfwatt.models.vocabulary_map import VocabularyMap

_AT_ONCE = 200_000  # numbers, which stay in a core's cache: 3.4 times faster than 128 rows of a vocabulary of 49k


@dataclass(frozen=True, slots=True)
class TokenLogits:
    """One dialogue as one model reads it.

    logits:   [assistant tokens, vocabulary], each row before the token that it predicts: after `predicting` ones
    eos_ids:  every stop token, for P(EOS)
    """

    tokens: ScoredTokens
    logits: NDArray[np.float32]
    eos_ids: Sequence[int]


def predicting(tokens: ScoredTokens) -> NDArray[np.intp]:
    """The positions after which a model is asked for an assistant token: each the one before it."""
    return np.flatnonzero(np.array(tokens.reply)[1:])


def teacher_score(
    dialogue: str, reference: TokenLogits, candidate: TokenLogits, vocabulary: VocabularyMap | None = None
) -> TeacherScore:
    """Compare two models on the assistant's tokens of the dialogue with this id.

    Args:
        vocabulary: of a candidate whose vocabulary is the reference's with tokens taken out. The replies' probabilities
            are those of the whole texts, so they compare whatever the tokens are. KL is then that of the reference's
            distribution over the kept tokens, renormalised, and only where both read the same tokens.

    Raises:
        BadInput: shapes that do not belong together, no assistant token, or logits that are not finite.
    """
    shapes = reference.logits.shape, candidate.logits.shape
    if vocabulary is None and shapes[0] != shapes[1]:
        raise BadInput(f"logits of {dialogue} do not belong together", got=f"{shapes[0]} and {shapes[1]}")
    (ref_nll, ref_eos, ref_ends), (nll, eos, ends) = (token_scores(dialogue, side) for side in (reference, candidate))
    kl, same = _divergence(reference, candidate, vocabulary)
    elsewhere, own_elsewhere = int((~ref_ends).sum()), int((~ends).sum())
    return TeacherScore(
        dialogue=dialogue,
        tokens=len(ref_nll),
        nll_ref=float(ref_nll.sum()),
        nll_cand=float(nll.sum()),
        ends=int(ref_ends.sum()),
        log_p_eos_ref=float(ref_eos[ref_ends].sum()),
        log_p_eos_cand=float(eos[ends].sum()),
        elsewhere=elsewhere,
        p_eos_ref=float(np.exp(ref_eos[~ref_ends]).sum()),
        p_eos_cand=float(np.exp(eos[~ends]).sum()) * (elsewhere / own_elsewhere if own_elsewhere else 1.0),
        kl=float(kl.sum()),
        kl_max=float(kl.max(initial=0.0)),
        top1_same=int(same.sum()),
        compared=None if len(kl) == len(ref_nll) else len(kl),
        stay_ref=_staying(ref_eos[~ref_ends]),
        stay_cand=_staying(eos[~ends]),
    )


def sum_of_scores(scores: Sequence[TeacherScore]) -> TeacherScore:
    """Of parts of one dialogue, as if they had been read together."""
    first, *others = scores
    summed: dict[str, Any] = {f.name: getattr(first, f.name) for f in fields(TeacherScore)}
    for other in others:
        for name, value in summed.items():
            if name not in ("dialogue", "kl_max", "compared") and value is not None:
                summed[name] = value + getattr(other, name)
    compared = sum(s.tokens if s.compared is None else s.compared for s in scores)
    summed["kl_max"] = max(s.kl_max for s in scores)
    summed["compared"] = None if compared == summed["tokens"] else compared
    return TeacherScore(**summed)


def token_scores(dialogue: str, side: TokenLogits) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """What one model says of the assistant's tokens: ``-log p(token)``, ``log P(EOS)``, and which of them end a turn.

    All three [assistant tokens], in nats.

    Raises:
        BadInput: no assistant token, logits of another number of tokens, or some that are not finite.
    """
    rows = predicting(side.tokens)
    if not len(rows):
        raise BadInput(f"dialogue {dialogue} has no assistant token to score")
    if len(side.logits) != len(rows):
        raise BadInput(f"logits of {dialogue} are not of its replies", got=f"{len(side.logits)} for {len(rows)} tokens")
    if not np.isfinite(side.logits).all():
        raise BadInput(f"logits of {dialogue} are not finite")
    targets, stops = np.array(side.tokens.ids)[rows + 1], sorted(side.eos_ids)
    nll, log_p_eos = np.empty(len(rows)), np.empty(len(rows))
    for at in _chunks((len(rows), side.logits.shape[1])):
        p = _log_probabilities(side.logits[at])
        nll[at] = -p[np.arange(len(p)), targets[at]]
        log_p_eos[at] = np.logaddexp.reduce(p[:, stops], axis=1)
    return nll, log_p_eos, np.array(side.tokens.end)[rows + 1]


def kl_rows(reference: NDArray[np.float32], candidate: NDArray[np.float32]) -> Floats:
    """KL(reference || candidate) in nats of each row of logits, [rows, vocabulary]: sum p (log p - log q)."""
    kl = np.empty(len(reference))
    for at in _chunks(reference.shape):
        p, q = _log_probabilities(reference[at]), _log_probabilities(candidate[at])
        kl[at] = np.maximum((np.exp(p) * (p - q)).sum(axis=1), 0.0)  # rounding may leave -1e-17
    return kl


def _divergence(
    reference: TokenLogits, candidate: TokenLogits, vocabulary: VocabularyMap | None
) -> tuple[Floats, NDArray[np.bool_]]:
    """KL of each assistant token, and whether both prefer the same; of none where the two read different tokens."""
    theirs, own = reference.logits, candidate.logits
    if vocabulary is not None:
        if not vocabulary.same(reference.tokens.ids, candidate.tokens.ids):
            return np.empty(0), np.empty(0, bool)
        theirs = theirs[:, vocabulary.kept]
    return kl_rows(theirs, own), theirs.argmax(axis=1) == own.argmax(axis=1)


def _staying(log_p_eos: Floats) -> float:
    """Summed -log(1 - P(EOS)), at most 21 nats each."""
    return -float(np.log(-np.expm1(np.minimum(log_p_eos, -1e-9))).sum())


def _log_probabilities(logits: NDArray[np.float32]) -> Floats:
    """[rows, vocabulary]"""
    log_p: Floats = log_softmax(logits.astype(np.float64), axis=1)
    return log_p


def _chunks(shape: tuple[int, ...]) -> Iterator[slice]:
    """Some rows of [rows, vocabulary] at a time."""
    step = max(1, _AT_ONCE // shape[1])
    return (slice(k, k + step) for k in range(0, shape[0], step))
