"""What is read off logits, against direct computations; and of a trimmed vocabulary against the whole one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from halfwatt.compress.base import StepContext
from halfwatt.compress.vocabulary_trim import Trim
from halfwatt.core.errors import BadInput
from halfwatt.dialogues.dialogue import Dialogue
from halfwatt.evaluate import likelihood
from halfwatt.evaluate.likelihood import TokenLogits, kl_rows, predicting, teacher_score, token_scores
from halfwatt.models.chat_model import ChatModel, load
from halfwatt.models.tokenizer import ScoredTokens
from halfwatt.models.vocabulary_map import VocabularyMap
from tests.support import tiny_models as tiny

TOKENS = ScoredTokens(
    ids=(5, 6, 7, 8, 2, 5, 9, 2),
    reply=(False, False, True, True, True, False, True, True),
    end=(False, False, False, False, True, False, False, True),
)


def side(logits: NDArray[np.float32], stops: tuple[int, ...] = (2,)) -> TokenLogits:
    """Of the logits after every token those before the assistant's."""
    return TokenLogits(TOKENS, logits[predicting(TOKENS)], stops)


def test_scores_are_those_of_torch() -> None:
    draw = torch.Generator().manual_seed(0)
    ref, cand = (torch.randn(8, 12, generator=draw) * 3 for _ in range(2))
    score = teacher_score("d", side(ref.numpy(), (2, 3)), side(cand.numpy(), (2, 3)))
    p, q = ref.double().log_softmax(-1), cand.double().log_softmax(-1)
    rows = [1, 2, 3, 5, 6]
    targets = [TOKENS.ids[r + 1] for r in rows]
    ends, inside = [3, 6], [1, 2, 5]
    assert score.tokens == 5
    assert (score.ends, score.elsewhere) == (2, 3)
    assert score.nll_ref == pytest.approx(-sum(float(p[r, t]) for r, t in zip(rows, targets, strict=True)))
    assert score.nll_cand == pytest.approx(-sum(float(q[r, t]) for r, t in zip(rows, targets, strict=True)))
    assert score.log_p_eos_cand == pytest.approx(sum(float(q[r, [2, 3]].logsumexp(0)) for r in ends))
    assert score.p_eos_ref == pytest.approx(sum(float(p[r, [2, 3]].exp().sum()) for r in inside))
    kl = torch.nn.functional.kl_div(q[rows], p[rows], log_target=True, reduction="none").sum(-1)
    assert score.kl == pytest.approx(float(kl.sum()))
    assert score.kl_max == pytest.approx(float(kl.max()))
    assert score.top1_same == int((p[rows].argmax(-1) == q[rows].argmax(-1)).sum())


def test_a_model_against_itself_has_no_divergence() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (8, 12)).astype(np.float32)
    score = teacher_score("d", side(logits), side(logits))
    assert (score.kl, score.kl_max, score.top1_same) == (0.0, 0.0, 5)
    assert score.nll_ref == score.nll_cand


def test_logits_that_do_not_belong_together_raise() -> None:
    logits = np.zeros((8, 12), np.float32)
    with pytest.raises(BadInput, match="belong together"):
        teacher_score("d", side(logits), side(logits[:, :7]))
    with pytest.raises(BadInput, match="8 for 5 tokens"):
        token_scores("d", TokenLogits(TOKENS, logits, (2,)))
    with pytest.raises(BadInput, match="not finite"):
        teacher_score("d", side(logits), side(np.full_like(logits, np.nan)))


def test_kl_is_the_formulas() -> None:
    p, q = np.array([0.5, 0.25, 0.25]), np.array([0.25, 0.5, 0.25])
    logits = [np.log(x)[None].astype(np.float32) + shift for x, shift in ((p, 3.0), (q, -1.0))]
    assert kl_rows(*logits)[0] == pytest.approx(float((p * np.log(p / q)).sum()), rel=1e-6)
    assert kl_rows(logits[0], logits[0])[0] == 0


def test_rows_are_taken_a_few_at_a_time_and_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64 a whole long dialogue under a large vocabulary would not fit the memory."""
    ref, cand = (np.random.default_rng(seed).normal(0, 3, (8, 12)).astype(np.float32) for seed in (0, 1))
    whole = teacher_score("d", side(ref), side(cand))
    sizes: list[int] = []
    plain = likelihood._log_probabilities

    def noting(logits: NDArray[np.float32]) -> NDArray[np.float64]:
        sizes.append(len(logits))
        return plain(logits)

    monkeypatch.setattr(likelihood, "_log_probabilities", noting)
    monkeypatch.setattr(likelihood, "_AT_ONCE", 2 * 12)
    assert teacher_score("d", side(ref), side(cand)) == whole
    assert set(sizes) == {1, 2}


# --- a trimmed vocabulary ------------------------------------------------------------------------------------------


@pytest.fixture
def whole(tmp_path: Path) -> ChatModel:
    return load(tiny.folder(tmp_path))


@pytest.fixture
def trimmed(whole: ChatModel) -> ChatModel:
    return Trim(1.0).apply(whole, StepContext(dialogues=tiny.dialogues()[:2]))


def of_model(model: ChatModel, dialogue: Dialogue) -> TokenLogits:
    tokens = model.tokenizer.scored(dialogue)
    with torch.no_grad():
        logits = model.network(input_ids=torch.tensor([tokens.ids])).logits[0].numpy()
    return TokenLogits(tokens, logits[predicting(tokens)], model.tokenizer.eos_ids)


def test_a_model_that_only_lost_unused_words_scores_no_worse(whole: ChatModel, trimmed: ChatModel) -> None:
    """Its softmax has fewer rivals, so the replies can only become likelier; of the kept tokens nothing changes."""
    kept = VocabularyMap.between(whole.tokenizer, trimmed.tokenizer)
    assert kept is not None
    for dialogue in tiny.dialogues()[:2]:
        score = teacher_score("d", of_model(whole, dialogue), of_model(trimmed, dialogue), kept)
        assert score.nll_cand <= score.nll_ref + 1e-3
        assert score.kl == pytest.approx(0, abs=1e-4)
        assert score.compared is None


def test_where_the_tokens_differ_only_whole_replies_are_compared(whole: ChatModel, trimmed: ChatModel) -> None:
    kept = VocabularyMap.between(whole.tokenizer, trimmed.tokenizer)
    assert kept is not None
    dialogue = tiny.dialogues()[2]
    score = teacher_score("d", of_model(whole, dialogue), of_model(trimmed, dialogue), kept)
    nll, _, ends = token_scores("d", of_model(trimmed, dialogue))
    assert len(nll) > score.tokens
    assert (score.compared, score.kl, score.top1_same) == (0, 0.0, 0)
    assert score.nll_cand == pytest.approx(nll.sum())
    assert score.ends == ends.sum()
