"""GPTQ on the project's grid: round one column at a time, and let the columns to come make up for the error.

    H = 2 X^T X over the calibration's tokens,   U = upper Cholesky factor of (H + damp mean(diag H) I)^-1
    for each column i:   q_i = round(w_i / s),   e = (w_i - s q_i) / U_ii,   w_j -= e U_ij   for all j > i

The scale of a group of 32 is chosen when its first column is reached, on the weights as corrected until then, by the
least squared error weighted with diag H. Source: Frantar et al., GPTQ, arXiv 2210.17323; group scales as in its code.

The layers are rounded one block after the other, and each sees the activations that the rounded ones before it make.

The output head is the last, and of small models with large vocabularies it costs most. An error in row v matters where
its token is likely, p (1 - p) of the softmax's own curvature, so that the rows said most each get an H of their own:

    H_v = (sum_t p_tv (1 - p_tv) x_t x_t^T  +  prior H) / (sum_t p_tv (1 - p_tv)  +  prior)

which is GuidedQuant's weighting by the end loss (arXiv 2505.07004), for the head in closed form.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from halfwatt.compress.quantize.coordinate_descent import descend
from halfwatt.models.architectures.registry import architecture_of
from halfwatt.models.grid import GROUP, Bits, GridTensor, quantize, round_to

Tensor = torch.Tensor
DAMPINGS = (0.01, 0.1, 1.0)  # of the mean diagonal, tried in turn until H can be factored
_DESCENT = 0.1  # of the mean diagonal: what descent needs, whose answer H describes less well the further it goes
_OWN_ROWS = 8192  # of the head that get an H of their own, at most
_OWN_TOKENS = 2048  # that a row looks at, the likeliest
_PRIOR = 0.1
_ROWS_AT_ONCE = 64


# --- pure ----------------------------------------------------------------------------------------------------------


def damped(hessian: Tensor, damping: float) -> Tensor:
    """H + damping mean(diag H) I. A column that was never active gets the mean, so that its weights stay.

    hessian: float32 [..., columns, columns]
    """
    diagonal = hessian.diagonal(dim1=-2, dim2=-1)
    mean = diagonal.mean(-1, keepdim=True)
    found = hessian.clone()
    found.diagonal(dim1=-2, dim2=-1).copy_(torch.where(diagonal > 0, diagonal, mean) + damping * mean)
    return found


def inverse_factor(hessian: Tensor, damping: float) -> Tensor | None:
    """U, upper triangular, with `damped`^-1 = U^T U; None where that is not positive definite.

    hessian: float32 [..., columns, columns]
    """
    if not bool((hessian.diagonal(dim1=-2, dim2=-1).mean(-1) > 0).all()):
        return None
    lower, failed = torch.linalg.cholesky_ex(damped(hessian, damping).double())
    if failed.any():
        return None
    upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
    return None if failed.any() or not torch.isfinite(upper).all() else upper.float()


def gptq(weight: Tensor, hessian: Tensor, factor: Tensor, bits: Bits) -> tuple[GridTensor, Tensor]:
    """The formula above; and the weight as each column stood when it was rounded, [rows, columns].

    weight:   float [rows, columns]
    hessian:  float32 [columns, columns], or one for each row; only its diagonal is used here, for the scales
    factor:   of `inverse_factor`
    """
    left = weight.detach().float().clone()
    rows, columns = left.shape
    before = torch.empty_like(left)
    importance = hessian.diagonal(dim1=-2, dim2=-1).clamp_min(0)
    q = torch.empty(rows, columns, dtype=torch.int8)
    scale = torch.empty(rows, columns // GROUP, dtype=torch.float16)
    for start in range(0, columns, GROUP):
        group = slice(start, start + GROUP)
        own = importance[..., group] if bool((importance[..., group].sum(-1) > 0).all()) else None
        s = quantize(left[:, group], bits, "mse", own).scale
        scale[:, start // GROUP] = s.squeeze(1)
        errors = torch.empty(rows, GROUP)
        for k in range(GROUP):
            i = start + k
            before[:, i] = left[:, i]
            chosen = round_to(left[:, i : i + 1], s, bits)
            q[:, i] = chosen.squeeze(1).to(torch.int8)
            errors[:, k] = (left[:, i] - (chosen * s.float()).squeeze(1)) / factor[..., i, i]
            left[:, i : group.stop] -= errors[:, k : k + 1] * factor[..., i, i : group.stop]
        left[:, group.stop :] -= (errors[:, None] @ factor[..., group, group.stop :]).squeeze(1)
    return GridTensor(q, scale, bits), before


@dataclass(frozen=True, slots=True)
class GptqSettings:
    """bits: of the grid; damping: of H's factor, a share of its mean diagonal; sweeps: of descent after it, or 0."""

    bits: Bits
    damping: float = DAMPINGS[0]
    sweeps: int = 0


def rounded(weight: Tensor, hessian: Tensor, how: GptqSettings) -> tuple[GridTensor, Tensor] | None:
    """`gptq`, then coordinate descent; and what each integer was rounded from. None where H cannot be factored."""
    factor = inverse_factor(hessian, how.damping)
    if factor is None:
        return None
    found = gptq(weight, hessian, factor, how.bits)
    if not how.sweeps:
        return found
    return descend(weight, found[0], damped(hessian, max(how.damping, _DESCENT)), how.sweeps)


def own_hessian(states: Tensor, p: Tensor, hessian: Tensor) -> Tensor:
    """H_v of one row of the head, [columns, columns]. states: [n, columns]; p: [n], its token's probability at each."""
    likeliest = p.topk(min(_OWN_TOKENS, len(p)))
    x, weight = states[likeliest.indices], likeliest.values * (1 - likeliest.values)
    return ((x * weight[:, None]).T @ x + _PRIOR * hessian) / (weight.sum() + _PRIOR)


@dataclass(frozen=True, slots=True)
class HeadStatistics:
    """What a head is asked.

    states:   float32 [n, columns]
    norms:    float32 [n], the logarithm of the softmax's denominator
    hessian:  float32 [columns, columns], of all rows
    matters:  float32 [vocabulary], sum_t p (1 - p): how much an error of each row matters
    """

    states: Tensor
    norms: Tensor
    hessian: Tensor
    matters: Tensor

    @classmethod
    def of(cls, rows: Tensor, states: Tensor) -> HeadStatistics:
        """rows: float32 [vocabulary, columns]."""
        norms = torch.cat([(x @ rows.T).logsumexp(1) for x in torch.split(states, 1024)])
        asked = cls(states, norms, 2 * states.T @ states / max(1, len(states)), torch.empty(0))
        matters = [p.mul(1 - p).sum(0) for p in map(asked.likelihoods, torch.split(rows, 1024))]
        return replace(asked, matters=torch.cat(matters))

    def likelihoods(self, some: Tensor) -> Tensor:
        """Of some rows' tokens, [n, some]."""
        return (self.states @ some.T - self.norms[:, None]).exp()

    def scaled(self, c: Tensor) -> HeadStatistics:
        """The same questions to a head whose columns were multiplied by c."""
        return replace(self, states=self.states / c, hessian=self.hessian / c[:, None] / c)


def gptq_head(weight: Tensor, asked: HeadStatistics, how: GptqSettings) -> tuple[GridTensor, Tensor] | None:
    """`rounded` of an output head, the rows said most with an H of their own.

    weight:  float [vocabulary, columns]
    """
    found = rounded(weight, asked.hessian, how)
    if found is None:
        return None
    grid, before = found
    rows = weight.detach().float()
    for some in torch.split(asked.matters.topk(min(_OWN_ROWS, len(rows))).indices, _ROWS_AT_ONCE):
        hessians = torch.stack([own_hessian(asked.states, p, asked.hessian) for p in asked.likelihoods(rows[some]).T])
        own = rounded(rows[some], hessians, how)
        if own is not None:
            grid.q[some], grid.scale[some], before[some] = own[0].q, own[0].scale, own[1]
    return grid, before


# --- the layers' inputs --------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Sums:
    """X^T X of one module's inputs, [columns, columns], over ``tokens`` tokens."""

    total: Tensor
    tokens: int = 0

    def add(self, inputs: Tensor, counted: Tensor) -> None:
        """inputs: [rows, length, columns]; counted: bool [rows, length], the tokens that matter."""
        x = inputs[counted].float()
        self.total += x.T @ x
        self.tokens += len(x)

    @property
    def hessian(self) -> Tensor:
        """2 X^T X / tokens."""
        return 2 * self.total / max(1, self.tokens)


@dataclass(frozen=True, slots=True)
class Calibration:
    """One batch: ids int64 [rows, length]; counted bool [rows, length], the positions that predict a reply's token."""

    ids: Tensor
    counted: Tensor


class Walk:
    """Runs a network block by block on a calibration set; a block sees what the blocks before it have made by then.

    >>> walk = Walk(network, calibration)                                       # doctest: +SKIP
    >>> for block in walk.blocks:                                               # doctest: +SKIP
    ...     sums = walk.sums(block, [block.mlp.down_proj]); ...; walk.advance(block)
    """

    def __init__(self, network: PreTrainedModel, calibration: Sequence[Calibration]) -> None:
        self.calibration, self._architecture = calibration, architecture_of(network)
        self.blocks: list[nn.Module] = list(self._architecture.blocks(network))
        self._arguments: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self.states: list[Tensor] = []  # [rows, length, width] a batch: what the next block is given
        self._enter(network)

    @torch.no_grad()
    def sums(self, block: nn.Module, modules: Sequence[nn.Module]) -> dict[nn.Module, Sums]:
        """The inputs of some modules of ``block``, summed over the calibration set."""
        widths = {m: self._architecture.rows(m).shape[1] for m in modules}
        found = {m: Sums(torch.zeros(width, width)) for m, width in widths.items()}
        counted = self.calibration[0].counted

        def hear(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            found[module].add(inputs[0], counted)

        handles = [m.register_forward_pre_hook(hear) for m in modules]
        try:
            for k, batch in enumerate(self.calibration):
                counted = batch.counted
                self._run(block, k)
        finally:
            for handle in handles:
                handle.remove()
        return found

    @torch.no_grad()
    def advance(self, block: nn.Module) -> None:
        """Let ``block`` make the next block's inputs."""
        self.states = [self._run(block, k) for k in range(len(self.states))]

    @torch.no_grad()
    def final(self, network: PreTrainedModel) -> Tensor:
        """The inputs of the head that count, [n, width], once all blocks have been passed."""
        norm = self._architecture.final_norm(network)
        pairs = zip(self.calibration, self.states, strict=True)
        states = torch.cat([norm(state)[batch.counted].float() for batch, state in pairs])
        return self._architecture.head_inputs(network.config, states)

    def _run(self, block: nn.Module, k: int) -> Tensor:
        args, options = self._arguments[k]
        made = block(self.states[k], *args, **options)
        out: Tensor = made[0] if isinstance(made, tuple) else made
        return out

    def _enter(self, network: PreTrainedModel) -> None:
        """Catch what the first block is given for each batch: states, and everything beside them."""

        def catch(_module: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
            self.states.append(args[0])
            self._arguments.append((args[1:], options))
            raise _Caught

        handle = self.blocks[0].register_forward_pre_hook(catch, with_kwargs=True)
        try:
            for batch in self.calibration:
                with suppress(_Caught), torch.no_grad():
                    network.base_model(input_ids=batch.ids, use_cache=False)
        finally:
            handle.remove()


class _Caught(Exception):
    """The first block was reached."""
