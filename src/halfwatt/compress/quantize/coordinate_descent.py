"""Coordinate descent on the grid: each integer goes where the error is least while the others stay what they are.

    E = e^T H e,   e = s q - w,   g = H e
    for each column i:   q_i = round((s q_i - g_i / H_ii) / s)
    for each group G:    s  -= (q_G . g_G) / (q_G^T H_GG q_G)

GPTQ meets each column once and cannot turn back; these sweeps can, and no step makes E larger. Source of a column's
step: QuantEase, arXiv 2309.01885; a scale's is the least square for fixed integers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from halfwatt.models.grid import GROUP, Bits, GridTensor, round_to


@dataclass(slots=True)
class _State:
    """q, w_hat, g: float32 [rows, columns]; s: float32 [rows, columns / 32]; bits and hessian as in `descend`."""

    q: Tensor
    s: Tensor
    w_hat: Tensor
    g: Tensor
    bits: Bits
    hessian: Tensor

    def move(self, group: slice, by: Tensor) -> None:
        """by: [rows, 32], added to w_hat."""
        self.w_hat[:, group] += by
        self.g += (by[:, None] @ self.hessian[..., group, :]).squeeze(1)


def descend(weight: Tensor, start: GridTensor, hessian: Tensor, sweeps: int) -> tuple[GridTensor, Tensor]:
    """From ``start`` downhill; and what each integer was rounded from at last, [rows, columns].

    weight:   float [rows, columns]
    hessian:  float32 [columns, columns], or one for each row; its diagonal above 0
    sweeps:   over all columns, at least one; the scales move before each but the first and the last
    """
    w, s, q = weight.detach().float(), start.scale.float(), start.q.float()
    w_hat = q * s.repeat_interleave(GROUP, 1)
    state = _State(q, s, w_hat, ((w_hat - w)[:, None] @ hessian).squeeze(1), start.bits, hessian)
    compensated = torch.empty_like(w)
    for sweep in range(sweeps):
        for first in range(0, w.shape[1], GROUP):
            group = slice(first, first + GROUP)
            if 0 < sweep < sweeps - 1:
                _move_scale(state, group)
            _move_integers(state, group, compensated)
    return GridTensor(state.q.to(torch.int8), state.s.to(torch.float16), start.bits), compensated


def _move_scale(state: _State, group: slice) -> None:
    """The best scale of a group for its integers, kept as fp16 stores it."""
    q, index = state.q[:, group], group.start // GROUP
    curvature = ((q[:, None] @ state.hessian[..., group, group]).squeeze(1) * q).sum(1)
    step = (q * state.g[:, group]).sum(1) / curvature
    stored = (state.s[:, index] - step.nan_to_num(0.0, 0.0, 0.0)).to(torch.float16).float()
    by = stored - state.s[:, index]
    state.s[:, index] = stored
    state.move(group, by[:, None] * q)


def _move_integers(state: _State, group: slice, compensated: Tensor) -> None:
    """The best integer of each column of a group in turn."""
    own = state.hessian[..., group, group]
    scale = state.s[:, group.start // GROUP].to(torch.float16)
    g, by = state.g[:, group].clone(), torch.zeros(len(state.q), GROUP)
    for k, column in enumerate(range(group.start, group.stop)):
        best = state.w_hat[:, column] - g[:, k] / own[..., k, k]
        integers = round_to(best[:, None], scale, state.bits).squeeze(1)
        by[:, k] = integers * scale.float() - state.w_hat[:, column]
        g += by[:, k : k + 1] * own[..., k, :]
        state.q[:, column], compensated[:, column] = integers, best
    state.move(group, by)
