"""Replies for the gate: every prompt of a split, greedy and sampled, spread over one-threaded workers.

Quality work, never inside an energy window. Reference and candidate get the same prompts in the same order with the
same seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from queue import Queue

from halfwatt.dialogue import Dialogue
from halfwatt.provenance import cores
from halfwatt.records import Reply, Sampling, ScoredReply
from halfwatt.tokenizer import ChatTokenizer
from halfwatt.worker import Spec, Worker
from halfwatt.workload import Progress

SHARD = 8  # dialogues a worker is handed at a time


@dataclass(frozen=True, slots=True)
class Prompt:
    """One reply to be made: the assistant's message at ``turn`` of ``dialogue``, greedy (seed None) or sampled."""

    dialogue: Dialogue
    turn: int
    seed: int | None
    sampling: Sampling


def prompts(
    dialogues: Sequence[Dialogue], own: Sampling, *, cap: int, max_turns: int, seeds: Sequence[int]
) -> list[list[Prompt]]:
    """Per dialogue: each turn greedy, then each turn under the model's own sampling with each seed.

    A model whose generation_config does not sample is judged on its greedy replies alone.
    """
    greedy = Sampling(max_new_tokens=cap, repetition_penalty=own.repetition_penalty)
    sampled = [] if own.temperature == 0 else list(seeds)
    made = []
    for index, dialogue in enumerate(dialogues):
        turns = dialogue.assistant_turns[:max_turns]
        rows = [Prompt(dialogue, turn, None, greedy) for turn in turns]
        for seed in sampled:
            for turn in turns:
                own_seed = replace(own, max_new_tokens=cap, seed=seed * 1_000_003 + index * 101 + turn)
                rows.append(Prompt(dialogue, turn, seed, own_seed))
        made.append(rows)
    return made


def generate(
    spec: Spec,
    work: Sequence[Sequence[Prompt]],
    progress: Progress = lambda _: None,
    label: str = "replies",
    *,
    threads: int = 1,
) -> tuple[ScoredReply, ...]:
    """Answer every prompt; the result is in the order of ``work``, whatever worker did it.

    threads: of each worker; workers with one each are fastest, unless a runtime is at its worst there
    """
    alone = replace(spec, at=replace(spec.at, threads=threads, threads_prefill=threads, batch=1))
    shards = [work[i : i + SHARD] for i in range(0, len(work), SHARD)]
    special = special_ids(ChatTokenizer.load(spec.artifact.path))
    scored: list[ScoredReply] = []
    with ExitStack() as stack:
        lanes = min(max(1, cores() // threads), len(shards))
        idle: Queue[Worker] = Queue()
        for _ in range(lanes):
            idle.put(stack.enter_context(Worker(alone)))

        def answer(shard: Sequence[Sequence[Prompt]]) -> list[ScoredReply]:
            worker = idle.get()
            try:
                return _scored(worker, [prompt for rows in shard for prompt in rows], special)
            finally:
                idle.put(worker)

        executor = stack.enter_context(ThreadPoolExecutor(lanes))
        for count, replies in enumerate(executor.map(answer, shards), start=1):
            scored += replies
            progress(f"{label}: {count / len(shards):.0%}")
    return tuple(scored)


def special_ids(tokenizer: ChatTokenizer) -> frozenset[int]:
    """Token ids that belong to the template, never into a reply."""
    encoded = [tokenizer.encode(token) for token in tokenizer.special_tokens]
    return frozenset(ids[0] for ids in encoded if len(ids) == 1)


def _scored(worker: Worker, rows: Sequence[Prompt], special: frozenset[int]) -> list[ScoredReply]:
    replies = worker.replies([p.dialogue.before(p.turn) for p in rows], [p.sampling for p in rows])
    return [as_scored(prompt, reply, special) for prompt, reply in zip(rows, replies, strict=True)]


def as_scored(prompt: Prompt, reply: Reply, special: frozenset[int]) -> ScoredReply:
    """A reply with what the gate needs to judge it."""
    inside = reply.token_ids[:-1] if reply.stopped else reply.token_ids
    return ScoredReply(
        dialogue=prompt.dialogue.id,
        turn=prompt.turn,
        seed=prompt.seed,
        text=reply.text,
        tokens=len(reply.token_ids),
        stopped=reply.stopped,
        cap=prompt.sampling.max_new_tokens,
        reference=prompt.dialogue.messages[prompt.turn].content,
        leaked=sum(token in special for token in inside),
    )
