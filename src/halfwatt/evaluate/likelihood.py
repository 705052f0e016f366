"""Likelihoods of human replies, from logits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from halfwatt.core.errors import BadInput
from halfwatt.evaluate.records import TeacherScore
from halfwatt.evaluate.reply_metrics import Floats
from halfwatt.models.tokenizer import ScoredTokens
from halfwatt.models.vocabulary_map import VocabularyMap

_CHUNK = 128  # rows at a time: a vocabulary of 150k stays below 200 MB


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
            got=f"{reference.shape} and {candidate.shape} for {len(tokens.ids)} tokens",
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
    renaming: VocabularyMap,
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
