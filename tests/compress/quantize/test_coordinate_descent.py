"""Coordinate descent against what it promises."""

from __future__ import annotations

import pytest
import torch

from halfwatt.compress.quantize.coordinate_descent import descend
from halfwatt.compress.quantize.gptq import damped, gptq, inverse_factor
from halfwatt.models.grid import GROUP, Bits, GridTensor, dequantize, limits, quantize, round_to
from tests.compress.quantize.test_gptq import correlated

ROWS, COLUMNS = 24, 64


def hessian() -> torch.Tensor:
    x = correlated()
    return damped(2 * x.T @ x / len(x), 0.01)


def errors(weight: torch.Tensor, result: GridTensor, h: torch.Tensor) -> torch.Tensor:
    """E of each row."""
    e = (dequantize(result) - weight).double()
    return ((e @ h.double()) * e).sum(1)


@pytest.mark.parametrize("bits", [4, 8])
def test_every_sweep_is_downhill_from_wherever_it_begins(bits: Bits) -> None:
    torch.manual_seed(0)
    weight, h = torch.randn(ROWS, COLUMNS), hessian()
    low, high = limits(bits)
    anywhere = torch.randint(low, high + 1, (ROWS, COLUMNS), dtype=torch.int8)
    start = GridTensor(anywhere, quantize(weight, bits).scale, bits)
    before = errors(weight, start, h)
    for sweeps in (1, 2, 3, 8):
        after = errors(weight, descend(weight, start, h, sweeps)[0], h)
        assert bool((after <= before * (1 + 1e-5)).all()), sweeps
        before = after


def test_at_the_end_no_integer_moved_alone_would_be_better() -> None:
    torch.manual_seed(0)
    weight, h = torch.randn(4, COLUMNS), hessian()
    result, _ = descend(weight, quantize(weight, 4, "mse"), h, 40)
    least = errors(weight, result, h)
    for column in range(COLUMNS):
        for integer in range(-8, 8):
            q = result.q.clone()
            q[:, column] = integer
            assert bool((errors(weight, GridTensor(q, result.scale, 4), h) >= least * (1 - 1e-5)).all())


def test_it_betters_gptq_and_knows_what_it_rounded() -> None:
    torch.manual_seed(0)
    weight, h = torch.randn(ROWS, COLUMNS), hessian()
    factor = inverse_factor(h, 0.0)
    assert factor is not None
    start, _ = gptq(weight, h, factor, 4)
    result, before = descend(weight, start, h, 8)
    assert errors(weight, result, h).sum() < 0.9 * errors(weight, start, h).sum()
    again = round_to(before.reshape(-1, GROUP), result.scale.reshape(-1), 4)
    assert torch.equal(again.reshape(weight.shape).to(torch.int8), result.q)


def test_rows_with_an_h_of_their_own_do_not_touch_each_other() -> None:
    torch.manual_seed(0)
    weight = torch.randn(3, COLUMNS)
    each = torch.stack([hessian(), torch.eye(COLUMNS), 2 * hessian() + torch.eye(COLUMNS)])
    start = quantize(weight, 4, "mse")
    result, _ = descend(weight, start, each, 8)
    for k in range(3):
        alone = GridTensor(start.q[k : k + 1], start.scale[k : k + 1], 4)
        expected, _ = descend(weight[k : k + 1], alone, each[k], 8)
        assert torch.equal(result.q[k : k + 1], expected.q)
        assert torch.equal(result.scale[k : k + 1], expected.scale)


def test_a_group_of_zeros_stays() -> None:
    weight = torch.randn(2, COLUMNS)
    weight[:, :GROUP] = 0
    result, before = descend(weight, quantize(weight, 4, "mse"), torch.eye(COLUMNS), 8)
    assert not result.q[:, :GROUP].any()
    assert torch.isfinite(before).all()
    assert torch.isfinite(dequantize(result)).all()
