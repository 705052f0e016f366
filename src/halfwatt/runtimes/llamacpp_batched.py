"""Several dialogues answered at once by llama.cpp: one pass over the weights gives a token of each.

    a prompt each -> the sequence whose cache it shares most with -> the rest of it is decoded there
                  -> a token of every sequence in one batch -> sampled, each for itself -> ... until all have ended

A sequence keeps its cache for the next turn of its dialogue, as a session of one does.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

from llama_cpp import llama_cpp as llama

from halfwatt.core.errors import EnvironmentFault
from halfwatt.dialogues.dialogue import Dialogue
from halfwatt.formats.artifact import Artifact
from halfwatt.models.sampling import Sampling
from halfwatt.runtimes.base import OperatingPoint, Reply, common_prefix, require_room
from halfwatt.runtimes.llamacpp_session import UBATCH, LlamaCppSession, batch_of


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

    def __init__(self, artifact: Artifact, gguf: str, at: OperatingPoint, *, gpu: bool) -> None:
        """Load the model; see `LlamaCppSession`."""
        super().__init__(artifact, gguf, at, gpu=gpu)
        self._wide = batch_of(max(UBATCH, at.batch))

    def close(self) -> None:
        """Free the context and the model."""
        llama.llama_batch_free(self._wide)
        super().close()

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

    def _forget(self) -> None:
        super()._forget()
        self._held: list[list[int]] = [[] for _ in range(self._at.batch)]  # the ids in each sequence's cache

    def _parameters(self) -> Any:
        params = super()._parameters()
        params.n_ctx, params.n_seq_max = self._size * self._at.batch, self._at.batch
        return params

    def _generate_batch(self, prompts: Sequence[list[int]], sampling: Sampling) -> list[_Turn]:
        longest = max(map(len, prompts))
        require_room(longest, self._longest)
        self._make_room(min(self._longest, longest + sampling.max_new_tokens))
        turns: list[_Turn] = []
        try:
            for number, slot in self._slots(prompts):
                turns.append(self._start(number, slot, prompts[number], sampling))
            live = turns
            while live := [turn for turn in live if len(turn.ids) < turn.most and turn.ids[-1] not in self._stops]:
                self._pass([(turn.slot, turn.ids[-1:]) for turn in live])
                for row, turn in enumerate(live):
                    turn.ids.append(self._choose(turn, row))
        finally:
            for turn in turns:
                if turn.chain is not None:
                    llama.llama_sampler_free(turn.chain)
        return sorted(turns, key=lambda turn: turn.number)

    def _slots(self, prompts: Sequence[list[int]]) -> list[tuple[int, int]]:
        """(prompt, sequence) pairs: who shares most with what a sequence holds chooses first."""
        left, free = set(range(len(prompts))), set(range(self._at.batch))
        pairs: list[tuple[int, int]] = []
        shared = {(n, s): common_prefix(self._held[s], prompts[n][:-1]) for n in left for s in free}
        for n, s in sorted(shared, key=lambda pair: (-shared[pair], pair)):
            if n in left and s in free:
                pairs.append((n, s))
                left.remove(n)
                free.remove(s)
        return pairs

    def _start(self, number: int, slot: int, prompt: list[int], sampling: Sampling) -> _Turn:
        """The prompt decoded, and the reply's first token."""
        cached = common_prefix(self._held[slot], prompt[:-1]) if self._at.reuse_prefix else 0
        memory = llama.llama_get_memory(self._context)
        if not llama.llama_memory_seq_rm(memory, slot, cached, -1):  # this architecture can only forget everything
            cached = 0
            llama.llama_memory_seq_rm(memory, slot, -1, -1)
        del self._held[slot][cached:]
        for start in range(cached, len(prompt), UBATCH):
            self._pass([(slot, prompt[start : start + UBATCH])])
        chain = self._chain(prompt, sampling)
        turn = _Turn(number, slot, prompt, cached, chain, min(sampling.max_new_tokens, self._longest - len(prompt)))
        turn.ids.append(self._choose(turn, -1))
        return turn

    def _choose(self, turn: _Turn, row: int) -> int:
        if turn.chain is None:
            return self._likeliest(row)
        return int(llama.llama_sampler_sample(turn.chain, self._context, row))

    def _pass(self, parts: Sequence[tuple[int, list[int]]]) -> None:
        """Decode some tokens of each sequence; the logits after the last token of each can be read, in order."""
        batch, row = self._wide, 0
        for slot, ids in parts:
            start = len(self._held[slot])
            for n, token in enumerate(ids):
                batch.token[row], batch.pos[row], batch.seq_id[row][0] = token, start + n, slot
                batch.logits[row] = n == len(ids) - 1
                row += 1
        batch.n_tokens = row
        code = llama.llama_decode(self._context, batch)
        if code != 0:
            self.reset()
            raise EnvironmentFault(f"llama_decode failed with code {code}", got=self._log.last())
        for slot, ids in parts:
            self._held[slot] += ids
        self._count(sum(len(self._held[slot]) for slot, _ in parts))
