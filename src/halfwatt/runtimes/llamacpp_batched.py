"""Several dialogues answered at once by llama.cpp: one pass over the weights gives a token of each.

    a prompt -> a free sequence -> what another sequence holds of it is copied, the rest decoded there
             -> a token of every sequence in one batch -> sampled, each for itself -> ... as one ends, the next begins

A sequence keeps its cache for the next turn of its dialogue, as a session of one does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from llama_cpp import llama_cpp as llama

from halfwatt.dialogues.dialogue import Dialogue
from halfwatt.formats.artifact import Artifact
from halfwatt.models.ngram_table import NgramTable
from halfwatt.models.sampling import Sampling
from halfwatt.runtimes.base import OperatingPoint, Reply, common_prefix, require_room
from halfwatt.runtimes.llamacpp_session import LlamaCppSession

_WORTH_COPYING = 8  # tokens: fewer are decoded again in the time that copying a cache takes


@dataclass(slots=True, eq=False)
class Turn:
    """A reply in the making, in sequence ``slot``."""

    slot: int
    prompt: list[int]
    cached: int  # tokens of the prompt that were in the cache
    chain: Any  # None = the largest logit wins
    most: int
    ids: list[int]
    over: bool = False


class BatchedSession(LlamaCppSession):
    """A session whose operating point has a batch.

    Who brings one prompt after the other opens turns and advances all of them (`in_thread`: llama.cpp computes in the
    session's own thread, and these are called there).
    """

    live: list[Turn]

    def __init__(
        self, artifact: Artifact, gguf: str, at: OperatingPoint, table: NgramTable | None = None, *, gpu: bool
    ) -> None:
        """See `LlamaCppSession`."""
        super().__init__(artifact, gguf, at, table, gpu=gpu)
        self.live = []
        self._order = list(range(at.batch))  # sequences, the one that was used last at the end

    def reply(self, batch: Sequence[Dialogue], sampling: Sampling) -> list[Reply]:
        """Answer the dialogues, as many at once as the operating point's batch.

        Raises:
            BadInput: a prompt leaves no room for a reply in the model's context.
        """
        return self.replies(batch, [sampling] * len(batch))

    def replies(self, prompts: Sequence[Dialogue], samplings: Sequence[Sampling]) -> list[Reply]:
        """The same, each with its own sampling."""
        ids = [self.tokenizer.prompt_ids(prompt) for prompt in prompts]
        turns = self.in_thread(lambda: self._generate_all(ids, samplings))
        return [self._as_reply(turn.prompt, turn.cached, turn.ids) for turn in turns]

    def stream(self, dialogue: Dialogue, sampling: Sampling) -> Generator[str, None, Reply]:
        """Answer one dialogue piece by piece, alone; the caches of the others are forgotten."""
        self.reset()
        return (yield from super().stream(dialogue, sampling))

    def open_turn(self, prompt: list[int], sampling: Sampling) -> Turn:
        """Read a prompt, in the free sequence that holds most of it, and choose the first token of its reply."""
        require_room(len(prompt), self.room)
        most = min(sampling.max_new_tokens, self.room - len(prompt))
        slot = self._place(prompt)
        cached, chain = self._prefill(slot, prompt), self._chain(prompt, sampling)
        turn = Turn(slot, prompt, cached, chain, most, [])
        self.live.append(turn)
        self._add(turn, -1)
        return turn

    def advance(self) -> None:
        """One token more of every reply; those that it ends are over, and live no more."""
        self._close_ranks()
        turns = list(self.live)
        self._pass([(turn.slot, turn.ids[-1:]) for turn in turns])
        for row, turn in enumerate(turns):
            self._add(turn, row)

    def reason(self, turn: Turn) -> Literal["stop", "length"]:
        """Why a reply ended that is over: by a stop token, or by its cap."""
        return "stop" if turn.ids[-1] in self._stops else "length"

    def close_turn(self, turn: Turn) -> None:
        """End a reply where it is."""
        turn.over = True
        self.live.remove(turn)
        if turn.chain is not None:
            llama.llama_sampler_free(turn.chain)

    def _generate_all(self, prompts: Sequence[list[int]], samplings: Sequence[Sampling]) -> list[Turn]:
        """Those first that share most with what is held. In the order of the prompts."""
        self._make_room_for(prompts, max(sampling.max_new_tokens for sampling in samplings))
        held = [max(common_prefix(own, prompt) for own in self._held) for prompt in prompts]
        waiting = deque(sorted(range(len(prompts)), key=lambda number: -held[number]))
        turns = dict[int, Turn]()
        try:
            while waiting or self.live:
                if waiting and len(self.live) < self._at.batch:
                    number = waiting.popleft()
                    turns[number] = self.open_turn(prompts[number], samplings[number])
                else:
                    self.advance()
        finally:
            for turn in list(self.live):
                self.close_turn(turn)
        return [turns[number] for number in range(len(prompts))]

    def _add(self, turn: Turn, row: int) -> None:
        """The token that the logits in ``row`` choose."""
        turn.ids.append(self._choose(turn.chain, row))
        if len(turn.ids) >= turn.most or turn.ids[-1] in self._stops:
            self.close_turn(turn)

    def _place(self, prompt: list[int]) -> int:
        """A free sequence: one that goes on with what it holds, else the one that was used longest ago, with what
        another sequence holds of the prompt."""
        free = [slot for slot in self._order if slot not in {turn.slot for turn in self.live}]
        shared = [common_prefix(held, prompt) for held in self._held]
        slot = max(free, key=shared.__getitem__)
        if not shared[slot] or shared[slot] < len(self._held[slot]) / 2:  # of another dialogue, which may go on too
            slot = min(free, key=lambda each: (bool(self._held[each]), self._order.index(each)))
        source = max(range(self._at.batch), key=shared.__getitem__)
        if self._at.reuse_prefix and shared[source] - shared[slot] > _WORTH_COPYING:
            self._copy(source, slot)
        self._use(slot)
        return slot

    def _close_ranks(self) -> None:
        """Only sequences whose numbers follow each other pass together: those apart move into the others' gaps."""
        slots, count = {turn.slot for turn in self.live}, len(self.live)
        starts = range(self._at.batch - count + 1)
        start = max(starts, key=lambda first: (len(slots & set(range(first, first + count))), -first))
        gaps = set(range(start, start + count)) - slots
        for turn in self.live:
            if not start <= turn.slot < start + count:
                self._copy(turn.slot, slot := gaps.pop())
                turn.slot = slot
                self._use(slot)
        self.live.sort(key=lambda turn: turn.slot)

    def _use(self, slot: int) -> None:
        self._order.remove(slot)
        self._order.append(slot)

    def _copy(self, source: int, slot: int) -> None:
        """Let a sequence hold what another one does: all of it, as llama.cpp copies."""
        llama.llama_memory_seq_cp(llama.llama_get_memory(self._context), source, slot, -1, -1)
        self._held[slot] = list(self._held[source])
