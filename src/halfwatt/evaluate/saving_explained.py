"""What a saving comes from: what a token costs less, and what shorter replies save. Pure.

    a token        = exp(mean over blocks of log of (base's cost / its tokens) / (cand's cost / its tokens))  windows
    fewer tokens   = sum of base's tokens / sum of cand's, greedy replies to the same prompts, by dialogue    the gate's
    together       = a token * fewer tokens
    that counts    = a token * min(fewer tokens, base's characters / people's)

Replies of an original that rambles differ so much in length that a measuring run of minutes, which sees some dozens of
them, knows the ratio a reply to a factor; what a token costs it knows to some percent, and lengths are known of
hundreds of replies that the gate asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from halfwatt.core.errors import BadInput
from halfwatt.core.estimate import Estimate
from halfwatt.core.statistics import Floats, clustered_ratio, product
from halfwatt.evaluate.energy_analysis import ratio
from halfwatt.evaluate.records import QualityInputs, ScoredReply, Window

_Z = 1.96


@dataclass(frozen=True, slots=True)
class SavingExplained:
    """Of one saving; each base over candidate. people: how many times shorter people's replies are than the base's."""

    a_token: Estimate
    fewer_tokens: Estimate
    people: Estimate

    @property
    def together(self) -> Estimate:
        """Both."""
        return product(self.a_token, self.fewer_tokens)

    @property
    def counted(self) -> Estimate:
        """The saving without what is shorter than people are."""
        return product(self.a_token, min(self.fewer_tokens, self.people, key=lambda cause: cause.mean))


def cpu_s_per_token(window: Window) -> float:
    """CPU-seconds a token of a reply, its prompt's included."""
    return window.consumption.cpu_s / window.tokens_out


def explain_saving(base: str, cand: str, windows: Sequence[Window], inputs: QualityInputs) -> SavingExplained:
    """Of measured windows, and of the gate's replies, whose reference is ``base``.

    Raises:
        BadInput: fewer than two blocks or dialogues, or nothing was said.
    """
    ours, theirs = ([r for r in replies if r.seed is None] for replies in (inputs.replies_cand, inputs.replies_ref))
    tokens = (_by_dialogue(replies, lambda r: r.tokens) for replies in (theirs, ours))
    characters = (_by_dialogue(theirs, lambda r: len(r.text)), _by_dialogue(theirs, lambda r: len(r.reference)))
    return SavingExplained(ratio(base, cand, windows, cpu_s_per_token), _times(*tokens), _times(*characters))


def _by_dialogue(replies: Sequence[ScoredReply], size: Callable[[ScoredReply], int]) -> Floats:
    sums: dict[str, float] = {}
    for reply in replies:
        sums[reply.dialogue] = sums.get(reply.dialogue, 0.0) + size(reply)
    return np.array(list(sums.values()))


def _times(more: Floats, fewer: Floats) -> Estimate:
    r = clustered_ratio(more, fewer)
    if r.mean <= 0:
        raise BadInput("nothing was said, so no reply is shorter than another")
    spread = math.exp(_Z * r.se / r.mean)  # two-sided, on the log scale as all ratios are
    return Estimate(r.mean, r.mean / spread, r.mean * spread, "x", r.n)
