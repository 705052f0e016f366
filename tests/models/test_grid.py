"""The grids: against llama.cpp's own arithmetic (the gguf package), and as properties."""

from __future__ import annotations

import math
from typing import get_args

import gguf
import hypothesis.extra.numpy as npst
import numpy as np
import pytest
import torch
from gguf.quants import dequantize as gguf_dequantize
from gguf.quants import quantize as gguf_quantize
from hypothesis import given, settings
from hypothesis import strategies as st

from halfwatt.core.errors import ModelError
from halfwatt.models.grid import Bits, GridTensor, ScaleSearch, dequantize, pack, quantize, unpack

BITS: tuple[Bits, ...] = (8, 4)
SEARCHES: tuple[ScaleSearch, ...] = get_args(ScaleSearch)
TYPES = {8: gguf.GGMLQuantizationType.Q8_0, 4: gguf.GGMLQuantizationType.Q4_0}

weights = npst.arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.sampled_from([32, 64, 96])),
    elements=st.floats(-1e4, 1e4, width=32, allow_subnormal=True),
).map(torch.from_numpy)
every_grid = pytest.mark.parametrize("bits", BITS)
every_search = pytest.mark.parametrize("search", SEARCHES)


def gaussian(rows: int = 16, columns: int = 128, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


@every_grid
@every_search
@given(weight=weights)
@settings(max_examples=60, deadline=None)
def test_stays_on_the_grid_and_within_half_a_step(bits: Bits, search: ScaleSearch, weight: torch.Tensor) -> None:
    grid = quantize(weight, bits, search)
    assert grid.q.dtype == torch.int8
    assert grid.scale.dtype == torch.float16
    assert torch.isfinite(grid.scale).all()
    assert int(grid.q.max()) <= (127 if bits == 8 else 7)
    assert int(grid.q.min()) >= (-127 if bits == 8 else -8)
    if search == "absmax":
        step = grid.scale.float().abs().repeat_interleave(32, 1)
        # int4 reaches -8 but only 7 on the other side, where a weight as large as the extreme is clipped by one step.
        allowed = step * (0.5 if bits == 8 else 1.0) * 1.07 + 1e-9
        assert ((dequantize(grid) - weight).abs() <= allowed).all()


@every_grid
@every_search
@given(weight=weights)
@settings(max_examples=60, deadline=None)
def test_the_integers_are_the_nearest_under_the_stored_scale(
    bits: Bits, search: ScaleSearch, weight: torch.Tensor
) -> None:
    grid = quantize(weight, bits, search)
    low, high = (-127, 127) if bits == 8 else (-8, 7)
    error = (dequantize(grid) - weight).double().abs()
    for move in (-1, 1):
        moved = GridTensor((grid.q.int() + move).clamp(low, high).to(torch.int8), grid.scale, bits)
        assert (error <= (dequantize(moved) - weight).double().abs() * (1 + 1e-5) + 1e-9).all()


@every_grid
@given(weight=weights)
@settings(max_examples=60, deadline=None)
def test_the_search_is_never_worse_than_absmax(bits: Bits, weight: torch.Tensor) -> None:
    squared = [
        ((dequantize(quantize(weight, bits, s)) - weight).double() ** 2).reshape(-1, 32).sum(1) for s in SEARCHES
    ]
    absmax, mse = squared[SEARCHES.index("absmax")], squared[SEARCHES.index("mse")]
    assert (mse <= absmax * (1 + 1e-4) + 1e-12).all()


@every_grid
@every_search
@given(weight=weights)
@settings(max_examples=60, deadline=None)
def test_blocks_mean_to_llama_cpp_what_they_mean_to_us(bits: Bits, search: ScaleSearch, weight: torch.Tensor) -> None:
    grid = quantize(weight, bits, search)
    blocks = pack(grid)
    assert np.array_equal(gguf_dequantize(blocks.numpy(), TYPES[bits]), dequantize(grid).numpy())
    back = unpack(blocks, bits)
    assert torch.equal(back.q, grid.q)
    assert torch.equal(back.scale.view(torch.int16), grid.scale.view(torch.int16))


@every_grid
def test_absmax_scales_are_llama_cpps(bits: Bits) -> None:
    weight = gaussian()
    theirs = unpack(torch.from_numpy(gguf_quantize(weight.numpy(), TYPES[bits])), bits)
    ours = quantize(weight, bits)
    assert torch.equal(ours.scale, theirs.scale)
    assert (ours.q - theirs.q).abs().max() <= 1  # it rounds with the scale before fp16, we with the one that is stored


@given(raw=npst.arrays(np.uint8, (3, 36)))
def test_unpack_inverts_every_int4_block(raw: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
    blocks = torch.from_numpy(raw)
    assert torch.equal(pack(unpack(blocks, 4)), blocks)


def test_the_search_beats_absmax_clearly_on_int4() -> None:
    weight = gaussian(64, 256)
    searches: tuple[ScaleSearch, ...] = ("absmax", "mse")
    absmax, mse = (float(((dequantize(quantize(weight, 4, s)) - weight) ** 2).mean()) for s in searches)
    assert mse < 0.9 * absmax


@pytest.mark.parametrize("bits", [4, 8])
def test_hqq_lowers_its_own_error_and_lets_outliers_go(bits: Bits) -> None:
    weight = gaussian(64, 256)
    weight[:, ::32] *= 4  # an outlier a group
    searches: tuple[ScaleSearch, ...] = ("mse", "hqq")
    mse, hqq = ((dequantize(quantize(weight, bits, s)) - weight).abs() for s in searches)
    assert float((hqq**0.7).sum()) < float((mse**0.7).sum())
    assert float((hqq**2).sum()) >= float((mse**2).sum())


def test_importance_moves_the_error_to_the_columns_that_matter_less() -> None:
    weight = gaussian(64, 64)
    importance = torch.ones(64)
    importance[::4] = 100.0
    plain, weighted = (dequantize(quantize(weight, 4, "mse", h)) for h in (None, importance))
    assert ((weighted - weight) ** 2)[:, ::4].mean() < 0.8 * ((plain - weight) ** 2)[:, ::4].mean()


@every_grid
@every_search
def test_zero_and_negative_zero_groups_have_scale_zero(bits: Bits, search: ScaleSearch) -> None:
    weight = torch.zeros(2, 64)
    weight[1] = -0.0
    grid = quantize(weight, bits, search)
    assert not grid.q.any()
    assert (grid.scale.view(torch.int16) == 0).all()  # +0.0, not -0.0
    assert not dequantize(grid).any()


@every_grid
@every_search
@pytest.mark.parametrize("size", [1e-30, 3e-7, 1e-5])
def test_tiny_groups_are_neither_clipped_nor_lost(bits: Bits, search: ScaleSearch, size: float) -> None:
    weight = gaussian(4, 32) * size
    grid = quantize(weight, bits, search)
    assert (dequantize(grid) - weight).abs().max() <= max(2**-24, float(weight.abs().max()) / 7)


@every_grid
@every_search
def test_a_scale_beyond_fp16_is_refused(bits: Bits, search: ScaleSearch) -> None:
    with pytest.raises(ModelError, match="fp16's range"):
        quantize(torch.full((1, 32), 1e8), bits, search)


@every_grid
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_weight_that_is_not_finite_is_named(bits: Bits, value: float) -> None:
    weight = gaussian(4, 64)
    weight[2, 33] = value
    with pytest.raises(ModelError, match=rf"{value} at row 2, column 33"):
        quantize(weight, bits)


@pytest.mark.parametrize("shape", [(2, 33), (32,), (2, 0), (1, 2, 32)])
def test_rows_that_do_not_divide_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match="groups of 32"):
        quantize(torch.ones(shape), 8)


def test_integers_outside_the_grid_are_not_packed() -> None:
    grid = GridTensor(torch.full((1, 32), -128, dtype=torch.int8), torch.ones(1, 1, dtype=torch.float16), 8)
    with pytest.raises(ModelError, match="-128"):
        pack(grid)


@every_grid
def test_chunking_changes_nothing(bits: Bits, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = gaussian(8, 96)
    whole = quantize(weight, bits, "mse", torch.rand(96, generator=torch.Generator().manual_seed(1)))
    monkeypatch.setattr("halfwatt.models.grid._CHUNK", 64)
    parts = quantize(weight, bits, "mse", torch.rand(96, generator=torch.Generator().manual_seed(1)))
    assert torch.equal(whole.q, parts.q)
    assert torch.equal(whole.scale, parts.scale)


def test_what_lies_on_the_grid_stays_there() -> None:
    exact = dequantize(quantize(gaussian(), 4))
    assert torch.equal(dequantize(quantize(exact, 4)), exact)
