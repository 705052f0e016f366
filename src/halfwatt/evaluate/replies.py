"""Replies for the gate: every prompt of a split, greedy and sampled, spread over one-threaded workers.

Quality work, never inside an energy window. Reference and candidate get the same prompts in the same order with the
same seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from queue import Queue

from halfwatt.core.machine import cores
from halfwatt.core.types import Progress
from halfwatt.evaluate.records import ScoredReply
from halfwatt.evaluate.requests import ReplyRequest
from halfwatt.models.tokenizer import ChatTokenizer
from halfwatt.runtimes.base import Reply
from halfwatt.runtimes.serving_process import ServingProcess, ServingSpec

SHARD = 8  # dialogues a worker is handed at a time


def generate_replies(
    spec: ServingSpec,
    work: Sequence[Sequence[ReplyRequest]],
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
        idle: Queue[ServingProcess] = Queue()
        for _ in range(lanes):
            idle.put(stack.enter_context(ServingProcess(alone)))

        def answer(shard: Sequence[Sequence[ReplyRequest]]) -> list[ScoredReply]:
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


def _scored(worker: ServingProcess, rows: Sequence[ReplyRequest], special: frozenset[int]) -> list[ScoredReply]:
    replies = worker.replies([p.dialogue.before(p.turn) for p in rows], [p.sampling for p in rows])
    return [scored_reply(prompt, reply, special) for prompt, reply in zip(rows, replies, strict=True)]


def scored_reply(prompt: ReplyRequest, reply: Reply, special: frozenset[int]) -> ScoredReply:
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
