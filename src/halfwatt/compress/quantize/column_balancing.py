"""Balancing: outlier columns of a weight handed over to what makes its inputs, before it is rounded. Says the same.

    W x = (W diag c) (x / c)      c of a norm's readers goes into the norm's weight, of down_proj into up_proj's rows

A group of 32 shares one scale, so one large column makes the steps of 31 others coarse. With steps of the group's
largest weight over 8, GPTQ's rounding error is, up to a factor,

    E(c) = sum over rows r and groups g of   p_r  max_{j in g} (w_rj c_j)^2  sum_{j in g} d_j / c_j^2

where d_j = 1 / U_jj^2 is what of column j's error the columns after it cannot make up for (gptq.py), and p_r how much
an error of row r matters. c is the best of 25 candidates

    c_j = d_j^(a / 2) / rms_j^b,     rms_j over the rows, weighted by p;     a, b in {0, 1/4, 1/2, 3/4, 1}

a = b = 0 being no change. That scales can be handed over so, and be searched on a grid of powers: SmoothQuant, arXiv
2211.10438, and AWQ, arXiv 2306.00978; the error is this project's, for steps that GPTQ takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product, starmap
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from halfwatt.compress.quantize.gptq import DAMPINGS, inverse_factor
from halfwatt.models.architectures.registry import architecture_of
from halfwatt.models.grid import GROUP

POWERS = (0.0, 0.25, 0.5, 0.75, 1.0)
_ROWS = 4096  # that are looked at, those that matter most
_TINY = 1e-30
_FURTHEST = 64.0  # from 1, that a column is scaled: fp16 scales and norms in 16 bits keep their digits


def expected_error(weight: Tensor, p: Tensor, d: Tensor, c: Tensor) -> float:
    """E(c) above. weight: [rows, columns]; p: [rows]; d, c: [columns]."""
    steps = (weight * c).reshape(len(weight), -1, GROUP).abs().amax(2).square()
    return float((p[:, None] * steps * (d / c.square()).reshape(-1, GROUP).sum(1)).sum())


def balance(weight: Tensor, p: Tensor, factor: Tensor) -> Tensor:
    """c, float32 [columns], its geometric mean 1.

    weight:  float [rows, columns], columns divisible by 32
    p:       float32 [rows], not negative
    factor:  U of the inputs' H (gptq.py), [columns, columns]
    """
    most = p.topk(min(_ROWS, len(p))).indices
    rows, p = weight[most].float(), p[most]
    d = 1 / factor.diagonal().square()
    rms = (p[:, None] * rows.square()).sum(0).sqrt()
    if not bool((rms > 0).all()):
        return torch.ones_like(d)  # a column without weights could be scaled to anything

    def candidate(a: float, b: float) -> Tensor:
        log = a / 2 * d.log() - b * rms.log()
        return (log - log.mean()).exp().clamp(1 / _FURTHEST, _FURTHEST)

    return min(starmap(candidate, product(POWERS, POWERS)), key=lambda c: expected_error(rows, p, d, c))


@dataclass(frozen=True, slots=True)
class Handover:
    """A module whose every output is read by ``readers`` alone, one column of theirs each.

    transposed: the readers' weights are stored [in, out]
    offset:     what the giver adds to its weight
    """

    giver: nn.Module  # a norm, or a Linear whose rows are scaled
    readers: tuple[nn.Module, ...]
    transposed: bool = False
    offset: float = 0.0

    def rows(self) -> list[Tensor]:
        """The readers' weights, float32 [out, in] each."""
        weights = [cast(Tensor, reader.weight).detach().float() for reader in self.readers]
        return [weight.T if self.transposed else weight for weight in weights]

    @torch.no_grad()
    def scale(self, c: Tensor) -> None:
        """Multiply the readers' columns by c, [columns], and divide what they are given; in place."""
        for reader in self.readers:
            cast(Tensor, reader.weight).mul_(c[:, None] if self.transposed else c)
        given: Any = self.giver
        given.weight.add_(self.offset).div_(c[:, None] if given.weight.ndim == 2 else c).sub_(self.offset)
        if getattr(given, "bias", None) is not None:
            given.bias.div_(c)


def handovers(network: PreTrainedModel, block: nn.Module) -> Iterator[Handover]:
    """Those inside a block: its norms, and up_proj before down_proj, which a gate multiplies without bending it."""
    own = architecture_of(network)
    for norm, readers in own.norms:
        yield Handover(block.get_submodule(norm), tuple(own.modules(block, readers)), own.transposed, own.norm_offset)
    if own.up is not None:
        yield Handover(block.get_submodule(own.up), (block.get_submodule(own.ffn_out),), own.transposed)


def hand_over(handover: Handover, hessian: Tensor, p: Tensor | None = None) -> Tensor:
    """Scale a handover's modules by their c, in place, and return it; ones where H has no factor.

    hessian:  of the readers' inputs, [columns, columns], columns divisible by 32
    p:        of the readers' rows; None = each reader counts by its error's share of its own outputs
    """
    factor = inverse_factor(hessian, DAMPINGS[0])
    if factor is None:
        return torch.ones(len(hessian))
    rows = handover.rows()
    if p is None:
        p = torch.cat([torch.full((len(w),), 1 / max(_TINY, float(((w @ hessian) * w).sum()))) for w in rows])
    c = balance(torch.cat(rows), p, factor)
    handover.scale(c)
    return c
