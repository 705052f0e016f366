"""What a student is trained to lower. Pure functions of logits, float32 inside, one number a position.

    p = softmax(teacher),  q = softmax(student),  both over the vocabulary; [n, vocabulary] of n positions -> [n], nats

| function                | formula                                      | source                                              |
|-------------------------|----------------------------------------------|-----------------------------------------------------|
| `label_nll`             | -log q[label]                                | cross-entropy                                       |
| `forward_kl`            | T^2 KL(p_T || q_T), p_T = softmax(z / T)     | Hinton et al. 2015; T^2 keeps the gradient's size   |
| `reverse_kl`            | T^2 KL(q_T || p_T)                           | MiniLLM, arXiv 2306.08543                           |
| `skewed_kl`             | KL(p || a p + (1 - a) q), a = skew           | DistiLLM, arXiv 2402.03898                          |
| `skewed_reverse_kl`     | KL(q || (1 - a) p + a q)                     | DistiLLM                                            |
| `jsd`                   | b KL(p || m) + (1 - b) KL(q || m), m = b p + (1 - b) q; b = 0: KL(p || q), b = 1: KL(q || p) | GKD, arXiv 2306.13649, eq. 1 |
| `state_error`           | |g - h|^2 / mean |h|^2, h = teacher's states, g = student's | TinyBERT, arXiv 1909.10351, eq. 8, as a share |
| `tail_kl`               | KL over the k best tokens of the teacher and one bucket for all others | lower bound of `forward_kl` at T = 1 (data processing) |

Forward KL covers all that the teacher might say; reverse KL prefers its likeliest; the skewed ones have bounded
gradients. Teacher logits are data: callers detach them where the teacher is not trained.
"""  # noqa: E501 - a table

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import log_softmax


def label_nll(student: Tensor, labels: Tensor) -> Tensor:
    """labels: int64 [n]."""
    return -_log(student).gather(1, labels[:, None]).squeeze(1)


def forward_kl(teacher: Tensor, student: Tensor, temperature: float = 1.0) -> Tensor:
    return temperature**2 * _kl(_log(teacher / temperature), _log(student / temperature))


def reverse_kl(teacher: Tensor, student: Tensor, temperature: float = 1.0) -> Tensor:
    return forward_kl(student, teacher, temperature)


def skewed_kl(teacher: Tensor, student: Tensor, skew: float = 0.1) -> Tensor:
    """Never above -log ``skew``."""
    p, q = _log(teacher), _log(student)
    return _kl(p, _mix(p, q, skew))


def skewed_reverse_kl(teacher: Tensor, student: Tensor, skew: float = 0.1) -> Tensor:
    return skewed_kl(student, teacher, skew)


def jsd(teacher: Tensor, student: Tensor, beta: float = 0.5) -> Tensor:
    """The generalised Jensen-Shannon divergence."""
    p, q = _log(teacher), _log(student)
    if beta in (0, 1):
        return _kl(q, p) if beta else _kl(p, q)
    m = _mix(p, q, beta)
    return beta * _kl(p, m) + (1 - beta) * _kl(q, m)


def state_error(teacher: Tensor, student: Tensor) -> Tensor:
    """Both [n, width]; -> [n]."""
    h, g = teacher.float(), student.float()
    return (g - h).square().sum(-1) / h.square().sum(-1).mean()


_NEVER = -1e4  # a logarithm whose exponential is 0, and 0 times it too


@dataclass(frozen=True, slots=True)
class TopK:
    """A teacher's distribution cut to its k best tokens, as a cache stores it.

    log_p:   [n, k], true log-probabilities, not renormalised: renormalising makes the student over-confident
    index:   integers [n, k]
    log_tail: [n], log of the probability of all other tokens together
    """

    log_p: Tensor
    index: Tensor
    log_tail: Tensor

    @classmethod
    def certain(cls, labels: Tensor, k: int) -> TopK:
        """Of a teacher that is sure of these tokens, int64 [n]: learning from it is learning the labels."""
        log_p = torch.full((len(labels), k), _NEVER)
        log_p[:, 0] = 0.0
        return cls(log_p.half(), labels[:, None].expand(-1, k).int(), torch.full((len(labels),), _NEVER))

    def to(self, device: torch.device) -> TopK:
        return TopK(self.log_p.to(device), self.index.to(device), self.log_tail.to(device))

    @classmethod
    def joined(cls, parts: Sequence[TopK]) -> TopK:
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in cls.__slots__))


def top_k(teacher: Tensor, k: int) -> TopK:
    """teacher: [n, vocabulary], k below the vocabulary."""
    every = _log(teacher)
    log_p, index = every.topk(k, dim=1)
    return TopK(log_p, index, _log_rest(every, index))


def tail_kl(teacher: TopK, student: Tensor) -> Tensor:
    """student: [n, vocabulary]; -> [n]."""
    every, index = _log(student), teacher.index.long()
    p, q = teacher.log_p.float(), every.gather(1, index)
    within = (p.exp() * (p - q)).sum(1)
    return within + teacher.log_tail.exp() * (teacher.log_tail - _log_rest(every, index))


def _log(logits: Tensor) -> Tensor:
    return log_softmax(logits.float(), dim=-1)


def _kl(a: Tensor, b: Tensor) -> Tensor:
    """KL(a || b) of log-probabilities, [n, vocabulary] -> [n]."""
    return (a.exp() * (a - b)).sum(-1)


def _mix(a: Tensor, b: Tensor, share: float) -> Tensor:
    """log(share exp(a) + (1 - share) exp(b)), share strictly between 0 and 1."""
    return torch.logaddexp(a + math.log(share), b + math.log1p(-share))


def _log_rest(log_p: Tensor, index: Tensor) -> Tensor:
    """The logarithm of what all tokens but those of ``index`` have; summed, because 1 minus the others cancels."""
    return log_p.scatter(1, index, -torch.inf).logsumexp(1)
