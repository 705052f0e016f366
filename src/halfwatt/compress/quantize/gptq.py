"""GPTQ on the project's grid: round one column at a time, and let the columns to come make up for the error.

    H = 2 X^T X over the calibration's tokens,   U = upper Cholesky factor of (H + damp mean(diag H) I)^-1
    for each column i:   q_i = round(w_i / s),   e = (w_i - s q_i) / U_ii,   w_j -= e U_ij   for all j > i

The scale of a group of 32 is chosen when its first column is reached, on the weights as corrected until then, by the
least squared error weighted with diag H. Source: Frantar et al., GPTQ, arXiv 2210.17323; group scales as in its code.

The layers are rounded one block after the other, and each sees the activations that the rounded ones before it make.
The output head is the last, and of small models with large vocabularies it costs most. An error in row v matters where
its token is likely, p (1 - p) of the softmax's own curvature, so that the likeliest rows each get an H of their own:

    H_v = (sum_t p_tv (1 - p_tv) x_t x_t^T  +  prior H) / (sum_t p_tv (1 - p_tv)  +  prior)

which is GuidedQuant's weighting by the end loss (arXiv 2505.07004), for the head in closed form.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from halfwatt.compress.quantize.coordinate_descent import descend
from halfwatt.compress.training.batches import Batch
from halfwatt.models.architectures.registry import architecture_of
from halfwatt.models.grid import GROUP, Bits, GridTensor, quantize, round_to

DAMPINGS = (0.01, 0.1, 1.0)  # of the mean diagonal, tried in turn until H can be factored
_DESCENT = 0.1  # of the mean diagonal: what descent needs, whose answer H describes less well the further it goes
_OWN_ROWS = 2048  # of the head that get an H of their own, at most: the demo gains by it, a student of SmolLM2 does not
_OWN_TOKENS = 2048  # that a row looks at, the likeliest
_PRIOR = 0.1
_ROWS_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class GptqSettings:
    """bits: of the grid; damping: of H's factor, a share of its mean diagonal; sweeps: of descent after it, or 0."""

    bits: Bits
    damping: float = DAMPINGS[0]
    sweeps: int = 0


def damped(hessian: Tensor, damping: float) -> Tensor:
    """H + damping mean(diag H) I. A column that was never active gets the mean, so that its weights stay.

    hessian: float32 [..., columns, columns]
    """
    diagonal = hessian.diagonal(dim1=-2, dim2=-1)
    mean = diagonal.mean(-1, keepdim=True)
    result = hessian.clone()
    result.diagonal(dim1=-2, dim2=-1).copy_(torch.where(diagonal > 0, diagonal, mean) + damping * mean)
    return result


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
    w = weight.detach().float().clone()
    rows, columns = w.shape
    compensated = torch.empty_like(w)
    importance = hessian.diagonal(dim1=-2, dim2=-1).clamp_min(0)
    q, scale = torch.empty(rows, columns, dtype=torch.int8), torch.empty(rows, columns // GROUP, dtype=torch.float16)
    for start in range(0, columns, GROUP):
        group = slice(start, start + GROUP)
        own = importance[..., group] if bool((importance[..., group].sum(-1) > 0).all()) else None
        s = quantize(w[:, group], bits, "mse", own).scale
        scale[:, start // GROUP] = s.squeeze(1)
        errors = torch.empty(rows, GROUP)
        for k in range(GROUP):
            i = start + k
            compensated[:, i] = w[:, i]
            integers = round_to(w[:, i : i + 1], s, bits)
            q[:, i] = integers.squeeze(1).to(torch.int8)
            errors[:, k] = (w[:, i] - (integers * s.float()).squeeze(1)) / factor[..., i, i]
            w[:, i : group.stop] -= errors[:, k : k + 1] * factor[..., i, i : group.stop]
        w[:, group.stop :] -= (errors[:, None] @ factor[..., group, group.stop :]).squeeze(1)
    return GridTensor(q, scale, bits), compensated


def round_weight(weight: Tensor, hessian: Tensor, settings: GptqSettings) -> tuple[GridTensor, Tensor] | None:
    """`gptq`, then coordinate descent; and what each integer was rounded from. None where H cannot be factored."""
    factor = inverse_factor(hessian, settings.damping)
    if factor is None:
        return None
    result = gptq(weight, hessian, factor, settings.bits)
    if not settings.sweeps:
        return result
    return descend(weight, result[0], damped(hessian, max(settings.damping, _DESCENT)), settings.sweeps)


def own_hessian(states: Tensor, p: Tensor, hessian: Tensor) -> Tensor:
    """H_v of one row of the head, [columns, columns]. states: [n, columns]; p: [n], its token's probability at each."""
    likeliest = p.topk(min(_OWN_TOKENS, len(p)))
    x, weight = states[likeliest.indices], likeliest.values * (1 - likeliest.values)
    return ((x * weight[:, None]).T @ x + _PRIOR * hessian) / (weight.sum() + _PRIOR)


@dataclass(frozen=True, slots=True)
class HeadStatistics:
    """A head's inputs, and what it predicts from them.

    states:       float32 [n, columns], the inputs
    norms:        float32 [n], log of the softmax's denominator at each
    hessian:      of all rows, [columns, columns]
    sensitivity:  float32 [vocabulary], how much an error of a row matters: sum of p (1 - p)
    """

    states: Tensor
    norms: Tensor
    hessian: Tensor
    sensitivity: Tensor

    @classmethod
    def of(cls, rows: Tensor, states: Tensor) -> HeadStatistics:
        """rows: the head's weight, float32 [vocabulary, columns]."""
        norms = torch.cat([(x @ rows.T).logsumexp(1) for x in torch.split(states, 1024)])
        head = cls(states, norms, 2 * states.T @ states / max(1, len(states)), torch.empty(0))
        sensitivity = [p.mul(1 - p).sum(0) for p in map(head.likelihoods, torch.split(rows, 1024))]
        return replace(head, sensitivity=torch.cat(sensitivity))

    def likelihoods(self, some: Tensor) -> Tensor:
        """Of some rows' tokens, [n, some]."""
        return (self.states @ some.T - self.norms[:, None]).exp()

    def scaled(self, c: Tensor) -> HeadStatistics:
        """Of the head whose columns were multiplied by c, and its inputs divided."""
        return replace(self, states=self.states / c, hessian=self.hessian / c[:, None] / c)


def round_head(weight: Tensor, head: HeadStatistics, settings: GptqSettings) -> tuple[GridTensor, Tensor] | None:
    """`round_weight` of an output head, the likeliest rows with an H of their own.

    weight:  float [vocabulary, columns]
    """
    result = round_weight(weight, head.hessian, settings)
    if result is None:
        return None
    grid, compensated = result
    rows = weight.detach().float()
    for some in torch.split(head.sensitivity.topk(min(_OWN_ROWS, len(rows))).indices, _ROWS_AT_ONCE):
        hessians = torch.stack([own_hessian(head.states, p, head.hessian) for p in head.likelihoods(rows[some]).T])
        own = round_weight(rows[some], hessians, settings)
        if own is not None:
            grid.q[some], grid.scale[some], compensated[some] = own[0].q, own[0].scale, own[1]
    return grid, compensated


class Walk:
    """Runs a network block by block on a calibration set: for each of ``blocks`` `hessians`, then `advance`.

    A block sees what the blocks before it have made by then.
    """

    def __init__(self, network: PreTrainedModel, batches: Sequence[Batch]) -> None:
        self.batches, self._architecture = batches, architecture_of(network)
        self.blocks: list[nn.Module] = list(self._architecture.blocks(network))
        self._kinds = dict(zip(self.blocks, self._architecture.kinds(network.config), strict=True))
        self._arguments: list[dict[str, tuple[tuple[Any, ...], dict[str, Any]]]] = []  # a batch, by kind of block
        self.states: list[Tensor] = []  # [rows, length, width] a batch: what the next block is given
        self._enter(network)

    @torch.no_grad()
    def hessians(self, block: nn.Module, modules: Sequence[nn.Module]) -> dict[nn.Module, Tensor]:
        """H of some modules of ``block``, [columns, columns]: 2 X^T X / tokens, where a reply's token is predicted."""
        sums = {m: torch.zeros(2 * [self._architecture.rows(m).shape[1]]) for m in modules}
        predicting = self.batches[0].predicting

        def add(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            x = inputs[0][predicting].float()
            sums[module] += x.T @ x

        with ExitStack() as hooks:
            for module in modules:
                hooks.enter_context(module.register_forward_pre_hook(add))
            for k, batch in enumerate(self.batches):
                predicting = batch.predicting
                self._run(block, k)
        tokens = sum(int(batch.predicting.sum()) for batch in self.batches)
        return {module: 2 * total / max(1, tokens) for module, total in sums.items()}

    @torch.no_grad()
    def advance(self, block: nn.Module) -> None:
        self.states = [self._run(block, k) for k in range(len(self.states))]

    @torch.no_grad()
    def final(self, network: PreTrainedModel) -> Tensor:
        """The inputs of the head that predict a reply's token, [n, width], once all blocks have been passed."""
        norm, pairs = self._architecture.final_norm(network), zip(self.batches, self.states, strict=True)
        states = torch.cat([norm(state)[batch.predicting].float() for batch, state in pairs])
        return self._architecture.head_inputs(network.config, states)

    def _run(self, block: nn.Module, k: int) -> Tensor:
        args, options = self._arguments[k][self._kinds[block]]
        outputs = block(self.states[k], *args, **options)
        return cast(Tensor, outputs[0] if isinstance(outputs, tuple) else outputs)

    def _enter(self, network: PreTrainedModel) -> None:
        """Catch the first block's states for each batch, and what each kind of block is given beside them."""
        firsts = {kind: block for block, kind in reversed(self._kinds.items())}

        def catch(module: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
            if module is self.blocks[0]:
                self.states.append(args[0])
                self._arguments.append({})
            self._arguments[-1][self._kinds[module]] = args[1:], options
            if len(self._arguments[-1]) == len(firsts):
                raise _AllKindsReached

        with torch.no_grad(), ExitStack() as hooks:
            for block in firsts.values():
                hooks.enter_context(block.register_forward_pre_hook(catch, with_kwargs=True))
            for batch in self.batches:
                with suppress(_AllKindsReached):
                    network.base_model(input_ids=batch.ids, use_cache=False)


class _AllKindsReached(Exception):
    """All that `Walk` wants to know is there."""
