"""Several dialogues answered at once by llama.cpp: one pass over the weights gives a token of each.

    a prompt each -> the sequence whose cache it shares most with -> the rest of it is decoded there
                  -> a token of every sequence in one batch -> sampled, each for itself -> ... until all have ended

A sequence keeps its cache for the next turn of its dialogue, as a session of one does.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from llama_cpp import llama_cpp as llama

from halfwatt.dialogues.dialogue import Dialogue
from halfwatt.models.sampling import Sampling
from halfwatt.runtimes.base import Reply, common_prefix
from halfwatt.runtimes.llamacpp_session import LlamaCppSession


@dataclass(slots=True)
class _Turn:
    """A reply in the making: to prompt ``number``, in sequence ``slot``."""

    number: int
    slot: int
    prompt: list[int]
    cached: int
    chain: Any  # None = the largest logit wins
    most: int
    ids: list[int] = field(default_factory=list)


class BatchedSession(LlamaCppSession):
    """A session whose operating point has a batch."""

    def reply(self, batch: Sequence[Dialogue], sampling: Sampling) -> list[Reply]:
        """Answer the dialogues at once, at most as many as the operating point's batch.

        Raises:
            BadInput: a prompt leaves no room for a reply in the model's context.
        """
        prompts = [self.tokenizer.prompt_ids(dialogue) for dialogue in batch]
        turns = self._in_thread(lambda: self._generate_batch(prompts, sampling))
        return [self._as_reply(turn.prompt, turn.cached, turn.ids) for turn in turns]

    def stream(self, dialogue: Dialogue, sampling: Sampling) -> Generator[str, None, Reply]:
        """Answer one dialogue piece by piece, alone; the caches of the others are forgotten."""
        self.reset()
        return (yield from super().stream(dialogue, sampling))

    def _generate_batch(self, prompts: Sequence[list[int]], sampling: Sampling) -> list[_Turn]:
        self._make_room_for(prompts, sampling)
        turns: list[_Turn] = []
        try:
            for number, slot in self._slots(prompts):
                prompt = prompts[number]
                cached, most = self._prefill(slot, prompt), min(sampling.max_new_tokens, self.longest - len(prompt))
                turns.append(_Turn(number, slot, prompt, cached, self._chain(prompt, sampling), most))
                turns[-1].ids.append(self._choose(turns[-1].chain, -1))
            live = turns
            while live := [turn for turn in live if len(turn.ids) < turn.most and turn.ids[-1] not in self._stops]:
                self._pass([(turn.slot, turn.ids[-1:]) for turn in live])
                for row, turn in enumerate(live):
                    turn.ids.append(self._choose(turn.chain, row))
        finally:
            for turn in turns:
                if turn.chain is not None:
                    llama.llama_sampler_free(turn.chain)
        return sorted(turns, key=lambda turn: turn.number)

    def _slots(self, prompts: Sequence[list[int]]) -> Iterator[tuple[int, int]]:
        """(prompt, sequence) pairs: who shares most with what a sequence holds chooses first."""
        left, free = set(range(len(prompts))), set(range(self._at.batch))
        shared = {(n, s): common_prefix(self._held[s], prompts[n][:-1]) for n in left for s in free}
        for n, s in sorted(shared, key=lambda pair: (-shared[pair], pair)):
            if n in left and s in free:
                left.remove(n)
                free.remove(s)
                yield n, s
