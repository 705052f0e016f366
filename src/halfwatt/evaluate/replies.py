"""Replies for the gate: every request of a workload, greedy and sampled, spread over one-threaded serving processes.

Quality work, never inside an energy window: a process answers several at once, as one ends the next begins. Reference
and candidate get the same requests in the same order with the same seeds. A reply does not depend on which process
gives it: shards hang on the workload alone, and a process forgets its prefix cache before every one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from halfwatt.core.types import Progress
from halfwatt.evaluate.records import ScoredReply
from halfwatt.evaluate.requests import ReplyRequest
from halfwatt.models.thinking import answer_of
from halfwatt.models.tokenizer import ChatTokenizer
from halfwatt.runtimes.base import Reply
from halfwatt.runtimes.serving_pool import in_processes
from halfwatt.runtimes.serving_process import ServingProcess, ServingSpec

LEAST, MOST = 8, 128  # dialogues that a process is handed at a time: a quarter, so that two or four end together
AT_ONCE = 16  # replies that it makes together, at most
CACHE_B = 2**30  # of their KV caches, with so many tokens each
CACHE_TOKENS = 1024


def generate_replies(
    spec: ServingSpec,
    requests: Sequence[Sequence[ReplyRequest]],
    progress: Progress = lambda _: None,
    label: str = "replies",
    *,
    threads: int = 1,
    size: int | None = None,
) -> tuple[ScoredReply, ...]:
    """Answer every request; the result is in their order, whichever process answered.

    Args:
        requests: per dialogue, as `Workload.requests` gives them.
        threads: of each process; one each is fastest, unless a runtime is at its worst there.
        size: dialogues of a shard; None = `shard_size` of them all.
    """
    batch = min(AT_ONCE, max(1, CACHE_B // (CACHE_TOKENS * max(1, spec.artifact.kv_b_per_token))))
    if spec.command:  # another program's, which may answer no two at once
        batch = 1
    at = replace(spec.at, threads=threads, threads_prefill=threads, batch=batch, speculation=None)
    size = size or shard_size(len(requests))
    shards = [[request for rows in requests[i : i + size] for request in rows] for i in range(0, len(requests), size)]
    chat = ChatTokenizer.load(spec.artifact.path)
    special, opened = special_ids(chat), chat.opens_thinking

    def answer(process: ServingProcess, shard: Sequence[ReplyRequest]) -> list[ScoredReply]:
        replies = process.replies([r.prompt for r in shard], [r.sampling for r in shard])
        return [
            scored_reply(request, reply, special, opened=opened) for request, reply in zip(shard, replies, strict=True)
        ]

    scored: list[ScoredReply] = []
    for count, replies in enumerate(in_processes(replace(spec, at=at), shards, answer), start=1):
        scored += replies
        progress(f"{label}: {count / len(shards):.0%}")
    return tuple(scored)


def shard_size(dialogues: int) -> int:
    """Dialogues that a process is handed at a time, of so many.

    >>> shard_size(20), shard_size(200), shard_size(2000)
    (8, 50, 128)
    """
    return max(LEAST, min(MOST, math.ceil(dialogues / 4)))


def special_ids(tokenizer: ChatTokenizer) -> frozenset[int]:
    """Token ids that belong to the template, never into a reply."""
    encoded = [tokenizer.encode(token) for token in tokenizer.special_tokens]
    return frozenset(ids[0] for ids in encoded if len(ids) == 1)


def scored_reply(request: ReplyRequest, reply: Reply, special: frozenset[int], *, opened: bool = False) -> ScoredReply:
    """A reply with what the gate needs to judge it. special: as `special_ids` gives them; opened: the prompt lets it
    think first, and what it thinks is no part of the text."""
    text = answer_of(reply.text, opened=opened)
    inside = reply.token_ids[:-1] if reply.stopped else reply.token_ids
    return ScoredReply(
        dialogue=request.dialogue.id,
        turn=request.turn,
        seed=request.seed,
        text=text,
        tokens=len(reply.token_ids),
        stopped=reply.stopped,
        cap=request.sampling.max_new_tokens,
        reference=request.dialogue.messages[request.turn].content,
        leaked=sum(token in special for token in inside),
        thought=len(reply.text) - len(text),
    )
