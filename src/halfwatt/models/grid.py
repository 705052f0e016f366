"""The two integer grids. A row of 32 weights is ``s * q``: int8 ``q in [-127, 127]``, int4 ``q in [-8, 7]``,
``s`` one fp16 scale. They are at once llama.cpp's ``Q8_0`` and ``Q4_0`` blocks and compressed-tensors' group-32
symmetric W8A16 / W4A16. Pure tensor functions.

Two rules hold for every function here: ``q`` is chosen with the scale as it will be stored (already rounded to fp16),
and what is packed is what was chosen. An int4 scale may be negative: the grid reaches one step further down than up,
so a negative scale lets the largest weight of a group, whatever its sign, fall on -8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from halfwatt.core.errors import ModelError

GROUP = 32
Bits = Literal[8, 4]
ScaleSearch = Literal["absmax", "mse", "hqq"]

_LIMITS = {8: (-127, 127), 4: (-8, 7)}
BLOCK_BYTES = {8: 2 + GROUP, 4: 2 + GROUP // 2}  # fp16 scale, then the integers
_FP16_NORMAL, _FP16_STEP = 2.0**-14, 2.0**-24  # smallest normal number; distance of the subnormal ones
LEAST_SCALE = 2.0**-18  # below it the steps between subnormal scales are over 1.5 % of one
_HQQ_P, _HQQ_BETA, _HQQ_STEPS = 0.7, 10.0, 20
_CHUNK = 1 << 18  # weights searched at a time, 1 MB as float32: nothing larger is ever there, and it stays in a cache


@dataclass(frozen=True, slots=True)
class GridTensor:
    """A weight on the grid: integers and their scales.

    q:      int8 [rows, columns]
    scale:  fp16 [rows, columns / 32]
    """

    q: torch.Tensor
    scale: torch.Tensor
    bits: Bits


def quantize(
    weight: torch.Tensor, bits: Bits, scale_search: ScaleSearch = "absmax", importance: torch.Tensor | None = None
) -> GridTensor:
    """Round a weight to the grid.

    weight:        any float [rows, columns], columns divisible by 32
    scale_search:  "absmax" fits each group's largest weight; "mse" searches the scale with the least squared error;
                   "hqq" the one with the least sum of |error|^0.7, which lets outliers go (see `_hqq_scale`)
    importance:    weight in that error of each column, [columns], or of each number, [rows, columns]; only for "mse"

    Raises:
        ModelError: the rows do not divide into groups, a weight is not finite, or a scale leaves fp16's range.
    """
    _check(weight)
    stored = weight.detach().reshape(-1, GROUP)
    per_group = None if importance is None else importance.float().expand(weight.shape).reshape(-1, GROUP)
    scale = torch.empty(len(stored), dtype=torch.float16, device=weight.device)
    q = torch.empty(stored.shape, dtype=torch.int8, device=weight.device)
    for start in range(0, len(stored), _CHUNK // GROUP):
        part = slice(start, start + _CHUNK // GROUP)
        groups = stored[part].to(torch.float32)
        if scale_search == "absmax":
            scale[part] = _fitting_scale(groups, bits)
        else:
            scale[part] = _best_scale(groups, bits, None if per_group is None else per_group[part])
        if scale_search == "hqq":
            scale[part] = _hqq_scale(groups, scale[part], bits)
        q[part] = round_to(groups, scale[part], bits).to(torch.int8)
    return GridTensor(q.reshape(weight.shape), scale.reshape(weight.shape[0], -1), bits)


def dequantize(grid: GridTensor) -> torch.Tensor:
    """``s * q`` as float32 [rows, columns]; exact, since 11 + 8 bits of mantissa fit into 24."""
    q = grid.q.reshape(len(grid.q), -1, GROUP).to(torch.float32)
    return q.mul_(grid.scale.to(torch.float32)[..., None]).reshape(grid.q.shape)


def round_activations(values: torch.Tensor) -> torch.Tensor:
    """What llama.cpp multiplies a matrix on a grid by: groups of 32 along the last axis, each int8 by its largest.

    As ``quantize_row_q8_0`` of ggml does it: the integers by the scale in float32, which is then kept as fp16.
    """
    groups = values.float().reshape(-1, GROUP)
    largest = groups.abs().amax(1, keepdim=True)
    q = (groups * (127 / largest).nan_to_num(0.0, posinf=0.0)).round()
    return ((largest / 127).half().float() * q).reshape(values.shape)


def limits(bits: Bits) -> tuple[int, int]:
    """The lowest and the highest integer of a grid."""
    return _LIMITS[bits]


def pack(grid: GridTensor) -> torch.Tensor:
    """llama.cpp's blocks, uint8 [rows, columns / 32 * (34 | 18)].

    ``Q8_0``: fp16 scale, 32 int8. ``Q4_0``: fp16 scale, 16 bytes: low nibbles ``q + 8`` of the first 16 weights, high
    nibbles of the second 16. Numbers are little-endian, as on every machine that torch runs on.

    Raises:
        ModelError: an integer lies outside the grid.
    """
    (lowest, highest), low, high = limits(grid.bits), int(grid.q.min()), int(grid.q.max())
    if low < lowest or high > highest:
        raise ModelError(f"integers do not fit the int{grid.bits} grid", got=f"{low} to {high}")
    rows = grid.q.shape[0]
    scale = grid.scale.contiguous().view(torch.uint8).reshape(rows, -1, 2)
    q = grid.q.reshape(rows, -1, GROUP)
    if grid.bits == 8:
        body = q.contiguous().view(torch.uint8)
    else:
        nibbles = (q + 8).to(torch.uint8)
        body = nibbles[..., : GROUP // 2] | (nibbles[..., GROUP // 2 :] << 4)
    return torch.cat([scale, body], dim=-1).reshape(rows, -1)


def unpack(blocks: torch.Tensor, bits: Bits) -> GridTensor:
    """The inverse of `pack`: uint8 [rows, bytes], a whole number of blocks each, to integers and scales."""
    rows = len(blocks)
    block = blocks.reshape(rows, -1, BLOCK_BYTES[bits])
    scale = block[..., :2].contiguous().view(torch.float16).reshape(rows, -1)
    body = block[..., 2:].contiguous()
    q = body.view(torch.int8) if bits == 8 else torch.cat([body & 0x0F, body >> 4], dim=-1).to(torch.int8) - 8
    return GridTensor(q.reshape(rows, -1), scale, bits)


def _check(weight: torch.Tensor) -> None:
    if weight.ndim != 2 or weight.shape[1] % GROUP or not weight.numel():
        shape = " x ".join(map(str, weight.shape))
        raise ModelError(f"the rows of this weight do not divide into groups of {GROUP}", got=shape)
    finite = torch.isfinite(weight)
    if not finite.all():
        row, column = (~finite).nonzero()[0].tolist()
        raise ModelError("a weight is not finite", got=f"{float(weight[row, column])} at row {row}, column {column}")


def round_to(groups: torch.Tensor, scale: torch.Tensor, bits: Bits) -> torch.Tensor:
    """The nearest integers of the grid under fp16 scales, as float32. A scale of 0 gives 0.

    groups: [n, any]; scale: [n], or [n, 1]
    """
    s = scale.to(torch.float32).reshape(-1, 1)
    return torch.where(s == 0, 0.0, groups / s).round_().clamp_(*limits(bits))


def _fitting_scale(groups: torch.Tensor, bits: Bits) -> torch.Tensor:
    """fp16 [groups]: the largest weight of a group falls on the far end of the grid, as in llama.cpp's reference."""
    extreme = groups.gather(1, groups.abs().argmax(1, keepdim=True)).squeeze(1)
    return _as_fp16(extreme.abs() / 127 if bits == 8 else torch.where(extreme == 0, 0.0, extreme / -8))


def _as_fp16(scale: torch.Tensor) -> torch.Tensor:
    """Round to fp16; among fp16's coarse subnormal numbers always away from 0, so that nothing is clipped or lost."""
    rounded = scale.to(torch.float16)
    shrunk = (rounded.abs() < scale.abs()) & (scale.abs() < _FP16_NORMAL)
    rounded = torch.where(shrunk, rounded + torch.sign(scale).to(torch.float16) * _FP16_STEP, rounded)
    if not torch.isfinite(rounded).all():
        raise ModelError("a scale leaves fp16's range", got=f"{float(scale.abs().max()):.6g}, at most 65504")
    return rounded


def _best_scale(groups: torch.Tensor, bits: Bits, importance: torch.Tensor | None) -> torch.Tensor:
    """fp16 [groups]: the scale with the least (weighted) squared error among shrunk ones, then refined in closed form.

    Shrinking clips the largest weight to spend finer steps on the others. For int4 both signs are tried. For fixed
    integers the best scale is ``sum(h w q) / sum(h q q)``; with its integers chosen anew it is kept where better.
    """
    start = _fitting_scale(groups, bits)
    shrunk = [1.0 - 0.0015 * i for i in range(12)] if bits == 8 else [1.08 - 0.04 * i for i in range(12)]
    best, least = start, _error(groups, start, bits, importance)

    def take_better(scale: torch.Tensor) -> None:
        """Where its error is less; an overflow to infinity is never less."""
        nonlocal best, least
        candidate = scale.to(torch.float16)
        error = _error(groups, candidate, bits, importance)
        best, least = torch.where(error < least, candidate, best), torch.where(error < least, error, least)

    for factor in shrunk if bits == 8 else shrunk + [-s for s in shrunk]:
        take_better(start.to(torch.float32) * factor)
    h = 1.0 if importance is None else importance
    for _ in range(2):
        q = round_to(groups, best, bits)
        take_better(((h * groups * q).sum(1) / (h * q * q).sum(1)).nan_to_num(0.0, 0.0, 0.0))
    return best


def _hqq_scale(groups: torch.Tensor, start: torch.Tensor, bits: Bits) -> torch.Tensor:
    """fp16 [groups]: half-quadratic steps for the scale, kept where the sum of |error|^p became less, p = 0.7.

        q = round(w / s);   e = shrink(w - s q);   s = sum(q (w - e)) / sum(q q)
        shrink(x) = sign(x) max(0, |x| - |x|^(p - 1) / beta), beta = 10, in steps of the starting scale

    HQQ (Badri and Shaji 2023; hqq/core/optimize.py) solves this for the zero point with the scale fixed. This grid has
    no zero point, so the same objective is solved for the scale.
    """
    best, scale = start, start.to(torch.float32)
    unit = scale.abs().clamp_min(_FP16_STEP)[:, None]
    least = _lp_error(groups, best, bits)
    for _ in range(_HQQ_STEPS):
        q = round_to(groups, scale.to(torch.float16), bits)
        steps = (groups - q * scale[:, None]) / unit  # errors in steps of the grid, at most about a half
        kept = (steps.abs() - steps.abs().clamp_min(1e-6) ** (_HQQ_P - 1) / _HQQ_BETA).clamp_min(0)
        outliers = torch.sign(steps) * kept * unit
        scale = ((q * (groups - outliers)).sum(1) / (q * q).sum(1)).nan_to_num(0.0, 0.0, 0.0)
        candidate = scale.to(torch.float16)
        error = _lp_error(groups, candidate, bits)
        best, least = torch.where(error < least, candidate, best), torch.minimum(error, least)
    return best


def _lp_error(groups: torch.Tensor, scale: torch.Tensor, bits: Bits) -> torch.Tensor:
    """Sum of |error|^p of each group, float32 [groups]."""
    miss = groups - round_to(groups, scale, bits) * scale.to(torch.float32)[:, None]
    return (miss.abs() ** _HQQ_P).sum(1)


def _error(groups: torch.Tensor, scale: torch.Tensor, bits: Bits, importance: torch.Tensor | None) -> torch.Tensor:
    """Squared error of each group, float32 [groups]; in place, for it is asked some thirty times of every weight."""
    s = scale.to(torch.float32)[:, None]
    miss = (groups * torch.where(s == 0, 0.0, 1 / s)).round_().clamp_(*limits(bits)).mul_(s).sub_(groups)
    result: torch.Tensor = torch.linalg.vecdot(miss, miss if importance is None else importance * miss)
    return result
