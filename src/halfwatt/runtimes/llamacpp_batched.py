"""Several dialogues answered at once by llama.cpp: one pass over the weights gives a token of each.

    a prompt -> a free sequence -> what another sequence holds of it is copied, the rest decoded there
             -> a token of every sequence in one batch -> sampled, each for itself -> ... as one ends, the next begins

A sequence keeps its cache for the next turn of its dialogue, as a session of one does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

from llama_cpp import llama_cpp as llama

from halfwatt.dialogues.dialogue import Dialogue
from halfwatt.models.sampling import Sampling
from halfwatt.runtimes.base import Reply, common_prefix
from halfwatt.runtimes.llamacpp_session import LlamaCppSession

_WORTH_COPYING = 8  # tokens: fewer are decoded again in the time that copying a cache takes


@dataclass(slots=True)
class _Turn:
    """A reply in the making: to prompt ``number``, in sequence ``slot``."""

    number: int
    slot: int
    prompt: list[int]
    cached: int
    chain: Any  # None = the largest logit wins
    most: int
    ids: list[int]


class BatchedSession(LlamaCppSession):
    """A session whose operating point has a batch."""

    def reply(self, batch: Sequence[Dialogue], sampling: Sampling) -> list[Reply]:
        """Answer the dialogues, as many at once as the operating point's batch.

        Raises:
            BadInput: a prompt leaves no room for a reply in the model's context.
        """
        return self.replies(batch, [sampling] * len(batch))

    def replies(self, prompts: Sequence[Dialogue], samplings: Sequence[Sampling]) -> list[Reply]:
        """The same, each with its own sampling."""
        ids = [self.tokenizer.prompt_ids(prompt) for prompt in prompts]
        turns = self._in_thread(lambda: self._generate_all(ids, samplings))
        return [self._as_reply(turn.prompt, turn.cached, turn.ids) for turn in turns]

    def stream(self, dialogue: Dialogue, sampling: Sampling) -> Generator[str, None, Reply]:
        """Answer one dialogue piece by piece, alone; the caches of the others are forgotten."""
        self.reset()
        return (yield from super().stream(dialogue, sampling))

    def _generate_all(self, prompts: Sequence[list[int]], samplings: Sequence[Sampling]) -> list[_Turn]:
        """Those first that share most with what is held. In the order of the prompts."""
        self._make_room_for(prompts, max(sampling.max_new_tokens for sampling in samplings))
        held = [max(common_prefix(own, prompt) for own in self._held) for prompt in prompts]
        waiting = deque(sorted(range(len(prompts)), key=lambda number: -held[number]))
        live, ended = list[_Turn](), list[_Turn]()
        try:
            while waiting or live:
                free = set(range(self._at.batch)) - {turn.slot for turn in live}
                if waiting and free:
                    number = waiting.popleft()
                    live.append(self._begin_turn(number, prompts[number], samplings[number], free))
                else:
                    self._close_ranks(live)
                    self._pass([(turn.slot, turn.ids[-1:]) for turn in live])
                    for row, turn in enumerate(live):
                        turn.ids.append(self._choose(turn.chain, row))
                over = [turn for turn in live if len(turn.ids) >= turn.most or turn.ids[-1] in self._stops]
                live, ended = [turn for turn in live if turn not in over], ended + over
        finally:
            for turn in (*live, *ended):
                if turn.chain is not None:
                    llama.llama_sampler_free(turn.chain)
        return sorted(ended, key=lambda turn: turn.number)

    def _begin_turn(self, number: int, prompt: list[int], sampling: Sampling, free: set[int]) -> _Turn:
        """Its prompt and the first token of its reply, in the free sequence that holds most of it."""
        most = min(sampling.max_new_tokens, self.longest - len(prompt))
        shared = [common_prefix(held, prompt) for held in self._held]
        slot = max(sorted(free), key=shared.__getitem__)
        source = max(range(self._at.batch), key=shared.__getitem__)
        if self._at.reuse_prefix and shared[source] - shared[slot] > _WORTH_COPYING:
            self._copy(source, slot)
        cached, chain = self._prefill(slot, prompt), self._chain(prompt, sampling)
        return _Turn(number, slot, prompt, cached, chain, most, [self._choose(chain, -1)])

    def _close_ranks(self, live: list[_Turn]) -> None:
        """Only sequences whose numbers follow each other pass together: the last ones move to where others ended."""
        gaps = set(range(len(live))) - {turn.slot for turn in live}
        for turn in live:
            if turn.slot >= len(live):
                self._copy(turn.slot, slot := gaps.pop())
                turn.slot = slot
        live.sort(key=lambda turn: turn.slot)

    def _copy(self, source: int, slot: int) -> None:
        """Let a sequence hold what another one does: all of it, as llama.cpp copies."""
        llama.llama_memory_seq_cp(llama.llama_get_memory(self._context), source, slot, -1, -1)
        self._held[slot] = list(self._held[source])
