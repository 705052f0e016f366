"""A chat loop around a network of transformers, for toolkits that quantize one.

It keeps the conversation's cache. Compiled, the cache has a fixed length and place, cannot be cut back and is emptied
for each reply; one compiled pass serves every next token.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.peers.serving import PeerSession
from halfwatt.models.sampling import Sampling
from halfwatt.runtimes.base import common_prefix
from halfwatt.runtimes.serving_process import ServingSpec


class TransformersSession(PeerSession):
    """Answers with ``network``."""

    def __init__(self, spec: ServingSpec, network: Any, *, compiled: bool = False) -> None:
        super().__init__(spec)
        torch.set_num_threads(self.threads)
        self._network, self._compiled = network, compiled
        self._next = torch.compile(self._network.forward) if self._compiled else self._network.forward
        self._cache: Any = None
        self._kept: list[int] = []
        if self._compiled:
            self.generate_ids([*range(8)], Sampling(), 4)
            self.reset()

    @torch.inference_mode()
    def generate_ids(self, prompt: list[int], sampling: Sampling, most: int) -> tuple[list[int], int]:
        """From the tokens on that the cache does not hold."""
        common = common_prefix(self._kept, prompt[:-1]) if self.at.reuse_prefix and not self._compiled else 0
        self._rewind(common)
        choose = _Chooser(sampling, prompt)
        output = self._network(input_ids=torch.tensor([prompt[common:]]), past_key_values=self._cache, logits_to_keep=1)
        new = [choose(output.logits[:, -1])]
        while len(new) < most and new[-1] not in self.stops:
            output = self._next(input_ids=torch.tensor([new[-1:]]), past_key_values=self._cache)
            new.append(choose(output.logits[:, -1]))
        self._kept = [*prompt, *new[:-1]]
        return new, common

    @torch.inference_mode()
    def all_logits(self, ids: list[int]) -> NDArray[np.float32]:
        """In one pass, without the cache."""
        rows: NDArray[np.float32] = (
            self._network(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float().numpy()
        )
        return rows

    @torch.inference_mode()
    def reset(self) -> None:
        """Empty the cache."""
        self._rewind(0)

    def _rewind(self, count: int) -> None:
        from transformers import DynamicCache, StaticCache

        if count:
            if surplus := len(self._kept) - count:
                self._cache.crop(-surplus)
        elif self._compiled and self._cache is not None:
            self._cache.reset()  # another one would be compiled for anew
        elif self._compiled:
            self._cache = StaticCache(config=self._network.config, max_cache_len=self.longest)
        else:
            self._cache = DynamicCache(config=self._network.config)
        self._kept = self._kept[:count]


class _Chooser:
    """The next token, by transformers' own processors."""

    def __init__(self, sampling: Sampling, prompt: list[int]) -> None:
        from transformers import LogitsProcessorList, RepetitionPenaltyLogitsProcessor
        from transformers.generation.logits_process import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

        self._ids = list(prompt)
        self._draws = sampling.temperature > 0
        self._random = torch.Generator().manual_seed(sampling.seed)
        self._processors: Any = LogitsProcessorList()
        if sampling.repetition_penalty != 1:
            self._processors.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
        if self._draws:
            self._processors.append(TemperatureLogitsWarper(sampling.temperature))
            if sampling.top_k:
                self._processors.append(TopKLogitsWarper(sampling.top_k))
            if sampling.top_p < 1:
                self._processors.append(TopPLogitsWarper(sampling.top_p))

    def __call__(self, logits: torch.Tensor) -> int:
        scores = logits
        if self._processors:
            scores = self._processors(torch.tensor([self._ids]), logits.float())
        if self._draws:
            token = int(torch.multinomial(scores.softmax(-1), 1, generator=self._random))
        else:
            token = int(scores.argmax())
        self._ids.append(token)
        return token
