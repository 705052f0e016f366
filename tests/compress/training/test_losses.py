"""Each loss against a closed form, by hand or by numpy in float64; gradients against finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from halfwatt.compress.training import losses

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

P, Q = np.array([0.5, 0.25, 0.25]), np.array([0.25, 0.25, 0.5])
TEACHER, STUDENT = torch.tensor(np.log([P])), torch.tensor(np.log([Q]))
ALL: dict[str, Loss] = {
    "forward": losses.forward_kl,
    "reverse": losses.reverse_kl,
    "skewed": losses.skewed_kl,
    "skewed reverse": losses.skewed_reverse_kl,
    "jsd": losses.jsd,
    "warm forward": lambda t, s: losses.forward_kl(t, s, 2.0),
    "tail": lambda t, s: losses.tail_kl(losses.top_k(t, 2), s),
}


def kl(p: np.ndarray, q: np.ndarray) -> float:
    return float((p * np.log(p / q)).sum())


def test_by_hand() -> None:
    assert losses.forward_kl(TEACHER, STUDENT).item() == pytest.approx(0.25 * math.log(2))
    assert losses.reverse_kl(TEACHER, STUDENT).item() == pytest.approx(0.25 * math.log(2))
    assert losses.label_nll(STUDENT, torch.tensor([2])).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("skew", [0.1, 0.5])
def test_the_skewed_ones_are_a_kl_to_a_mixture(skew: float) -> None:
    assert losses.skewed_kl(TEACHER, STUDENT, skew).item() == pytest.approx(kl(P, skew * P + (1 - skew) * Q))
    assert losses.skewed_reverse_kl(TEACHER, STUDENT, skew).item() == pytest.approx(kl(Q, (1 - skew) * P + skew * Q))


def test_jsd_at_its_ends_and_in_between() -> None:
    m = 0.3 * P + 0.7 * Q
    assert losses.jsd(TEACHER, STUDENT, 0.3).item() == pytest.approx(0.3 * kl(P, m) + 0.7 * kl(Q, m))
    assert losses.jsd(TEACHER, STUDENT, 0.0).item() == pytest.approx(kl(P, Q))
    assert losses.jsd(TEACHER, STUDENT, 1.0).item() == pytest.approx(kl(Q, P))


def test_temperature_softens_both_and_the_square_keeps_the_gradient() -> None:
    soft_p, soft_q = P**0.5 / (P**0.5).sum(), Q**0.5 / (Q**0.5).sum()
    assert losses.forward_kl(TEACHER, STUDENT, 2.0).item() == pytest.approx(4 * kl(soft_p, soft_q))
    sizes = []
    for temperature in (8.0, 16.0):  # towards T -> infinity the gradient no longer hangs on T
        student = STUDENT.clone().requires_grad_()
        losses.forward_kl(TEACHER, student, temperature).sum().backward()  # type: ignore[no-untyped-call]
        assert student.grad is not None
        sizes.append(float(student.grad.norm()))
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)


def test_the_skewed_loss_is_bounded_where_kl_is_not() -> None:
    sure, wrong = torch.tensor([[40.0, 0.0, 0.0]]), torch.tensor([[-40.0, 0.0, 0.0]])
    assert losses.forward_kl(sure, wrong).item() > 30
    assert losses.skewed_kl(sure, wrong, 0.1).item() <= -math.log(0.1) + 1e-5


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 11))
@example(15, 11)  # a tail of one token in 100,000
def test_a_cut_distribution_never_shows_more_than_the_whole(seed: int, k: int) -> None:
    torch.manual_seed(seed)
    teacher, student = torch.randn(4, 12) * 3, torch.randn(4, 12) * 3
    cut, whole = losses.tail_kl(losses.top_k(teacher, k), student), losses.forward_kl(teacher, student)
    assert (cut <= whole + 1e-4).all()
    assert (cut >= -1e-5).all()


def test_a_cut_that_leaves_one_token_is_the_whole() -> None:
    torch.manual_seed(0)
    teacher, student = torch.randn(5, 6), torch.randn(5, 6)
    cut = losses.tail_kl(losses.top_k(teacher, 5), student)
    assert torch.allclose(cut, losses.forward_kl(teacher, student), atol=1e-5)


def test_learning_from_a_teacher_that_is_sure_is_learning_the_labels() -> None:
    torch.manual_seed(0)
    student, labels = torch.randn(5, 6), torch.tensor([0, 5, 2, 2, 1])
    sure = losses.tail_kl(losses.TopK.certain(labels, 3), student)
    assert torch.allclose(sure, losses.label_nll(student, labels), atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_zero_between_equals_and_never_below(name: str) -> None:
    torch.manual_seed(1)
    a, b = torch.randn(6, 9) * 2, torch.randn(6, 9) * 2
    assert torch.allclose(ALL[name](a, a), torch.zeros(6), atol=1e-5)
    assert (ALL[name](a, b) > 0).all()


@pytest.mark.parametrize("name", ALL)
def test_gradients_against_finite_differences(name: str) -> None:
    torch.manual_seed(2)
    teacher, student = torch.randn(2, 5), torch.randn(2, 5, requires_grad=True)
    ALL[name](teacher, student).sum().backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    step = 1e-2  # losses are float32: small steps would show rounding
    for row in range(2):
        for column in range(5):
            up, down = student.detach().clone(), student.detach().clone()
            up[row, column] += step
            down[row, column] -= step
            slope = (ALL[name](teacher, up).sum() - ALL[name](teacher, down).sum()) / (2 * step)
            assert student.grad[row, column].item() == pytest.approx(slope.item(), abs=2e-3)


def test_half_precision_logits_are_computed_in_float32() -> None:
    teacher, student = torch.randn(3, 500).bfloat16(), torch.randn(3, 500).bfloat16()
    assert losses.forward_kl(teacher, student).dtype == torch.float32
    assert torch.equal(losses.forward_kl(teacher, student), losses.forward_kl(teacher.float(), student.float()))


def test_the_states_error_is_a_share_of_their_size() -> None:
    teacher, student = torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[3.0, 2.0], [0.0, 0.0]])
    assert torch.allclose(
        losses.state_error(teacher, student), torch.tensor([4.0, 1.0]) / 13
    )  # mean |h|^2 = (25 + 1) / 2
    assert torch.allclose(losses.state_error(7 * teacher, 7 * student), losses.state_error(teacher, student))
