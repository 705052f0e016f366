"""What is read off logits and replies, against direct computations."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch

from halfwatt.core.errors import BadInput
from halfwatt.evaluate import likelihood, reply_metrics
from halfwatt.evaluate.records import ScoredReply
from halfwatt.models.tokenizer import ScoredTokens

TOKENS = ScoredTokens(
    ids=(5, 6, 7, 8, 2, 5, 9, 2),
    reply=(False, False, True, True, True, False, True, True),
    end=(False, False, False, False, True, False, False, True),
)


def reply(text: str, *, stopped: bool = True, leaked: int = 0) -> ScoredReply:
    return ScoredReply("d", 1, None, text, 9, stopped, 256, "human", leaked)


def test_scores_are_those_of_torch() -> None:
    draw = torch.Generator().manual_seed(0)
    ref, cand = (torch.randn(8, 12, generator=draw) * 3 for _ in range(2))
    found = likelihood.teacher_score("d", TOKENS, ref.numpy(), cand.numpy(), (2, 3))
    p, q = ref.double().log_softmax(-1), cand.double().log_softmax(-1)
    rows = [1, 2, 3, 5, 6]
    targets = [TOKENS.ids[r + 1] for r in rows]
    ends, inside = [3, 6], [1, 2, 5]
    assert found.tokens == 5
    assert (found.ends, found.elsewhere) == (2, 3)
    assert found.nll_ref == pytest.approx(-sum(float(p[r, t]) for r, t in zip(rows, targets, strict=True)))
    assert found.nll_cand == pytest.approx(-sum(float(q[r, t]) for r, t in zip(rows, targets, strict=True)))
    assert found.log_p_eos_cand == pytest.approx(sum(float(q[r, [2, 3]].logsumexp(0)) for r in ends))
    assert found.p_eos_ref == pytest.approx(sum(float(p[r, [2, 3]].exp().sum()) for r in inside))
    kl = torch.nn.functional.kl_div(q[rows], p[rows], log_target=True, reduction="none").sum(-1)
    assert found.kl == pytest.approx(float(kl.sum()))
    assert found.kl_max == pytest.approx(float(kl.max()))
    assert found.top1_same == int((p[rows].argmax(-1) == q[rows].argmax(-1)).sum())


def test_a_model_against_itself_has_no_divergence() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (8, 12)).astype(np.float32)
    found = likelihood.teacher_score("d", TOKENS, logits, logits, (2,))
    assert (found.kl, found.kl_max, found.top1_same) == (0.0, 0.0, 5)
    assert found.nll_ref == found.nll_cand


def test_logits_that_do_not_belong_together_raise() -> None:
    logits = np.zeros((8, 12), np.float32)
    with pytest.raises(BadInput, match="belong together"):
        likelihood.teacher_score("d", TOKENS, logits, logits[:7], (2,))
    with pytest.raises(BadInput, match="not finite"):
        likelihood.teacher_score("d", TOKENS, logits, np.full_like(logits, np.nan), (2,))


@pytest.mark.parametrize(
    ("bad", "flag"),
    [
        (reply("  \n"), "empty"),
        (reply("fine words", stopped=False), "runs to the cap"),
        (reply("go to the shop " * 6), "repeats itself"),
        (reply("I am here. What now? I am here! So it is. i am here."), "same sentence three times"),
        (reply("hello", leaked=1), "template tokens leaked"),
        (reply("hello <|im_start|>user"), "template tokens leaked"),
        (reply("caf\ufffd"), "broken characters"),
    ],
)
def test_plain_failures_are_flagged(bad: ScoredReply, flag: str) -> None:
    assert flag in reply_metrics.flags(bad, ("<|im_start|>",))


def test_a_plain_good_reply_has_no_flag() -> None:
    assert reply_metrics.flags(reply("Turning on the kitchen light now. Yes. Yes."), ("<|im_start|>",)) == ()


def test_chrf_of_the_same_text_is_full() -> None:
    assert reply_metrics.chrf("the light is on", "the light is on") == 100.0
    assert reply_metrics.chrf("zzz", "the light is on") < 5


def test_diversity_and_its_leave_one_out_values_by_brute_force() -> None:
    texts = [["a b c a b", "b c"], ["a b"], ["x y z", "x y"], ["c a b c"]]

    def direct(dialogues: list[list[str]]) -> tuple[float, float]:
        pairs = Counter(pair for d in dialogues for text in d for pair in pairwise(text.split()))
        heads: Counter[str] = Counter()
        for (first, _), count in pairs.items():
            heads[first] += count
        total = pairs.total()
        entropy = -sum(c / total * np.log(c / heads[first]) for (first, _), c in pairs.items())
        return len(pairs) / total, float(entropy)

    (distinct, distinct_without), (entropy, entropy_without) = reply_metrics.diversity(texts)
    assert (distinct, entropy) == pytest.approx(direct(texts))
    for left_out in range(len(texts)):
        rest = direct(texts[:left_out] + texts[left_out + 1 :])
        assert (distinct_without[left_out], entropy_without[left_out]) == pytest.approx(rest)
