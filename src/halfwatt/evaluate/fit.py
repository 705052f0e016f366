"""Does a reply fit what was asked? A judge, of whom only likelihoods are read, tells it from other dialogues' (G7).

    eight dialogues -> each context is read once -> the eight replies of each party are scored after it
    log p(reply | its own dialogue), log p(reply | each of the seven others)    of the reply's first tokens, nats

Their difference is the pointwise mutual information of reply and dialogue with the judge held fixed, by which Li et al.
(2016, arXiv 1510.03055) choose replies that are no commonplace; which of several dialogues it belongs to is the test of
next-utterance retrieval (hits@1), turned around. Style is the same on both sides, so it counts for nothing.

Of each dialogue one turn is asked, greedy, drawn by seed; the eight are of one source where the dialogues name any,
but where a source's number is no multiple of eight.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from halfwatt.core.statistics import Floats
from halfwatt.core.types import Progress
from halfwatt.evaluate.records import Fit, ScoredReply
from halfwatt.evaluate.requests import ReplyRequest, Workload
from halfwatt.runtimes.base import OperatingPoint
from halfwatt.runtimes.serving_pool import in_processes
from halfwatt.runtimes.serving_process import ServingProcess, ServingSpec

TOGETHER = 8
PLAINLY = 1e-3  # share of its own dialogue below which a reply is plainly another's
Turn = tuple[str, int]  # a dialogue's id and the index of a message


def fit_of_reference(
    judge: ServingSpec, workload: Workload, replies: Sequence[ScoredReply], progress: Progress
) -> tuple[Fit, ...]:
    """How the human replies and the reference's own fit; asked once, for all candidates."""
    blocks = draw_blocks(workload)
    parties = _greedy_texts(replies), {(r.dialogue, r.turn): r.reference for r in replies}
    scores = _scores(judge, workload, blocks, parties, progress)
    return tuple(
        Fit(*turn, people=people, reference=own) for turn, (own, people) in zip(_turns(blocks), scores, strict=True)
    )


def fit_of_people(judge: ServingSpec, workload: Workload, progress: Progress) -> tuple[Fit, ...]:
    """How the human replies fit, where the reference's are not asked for."""
    blocks = draw_blocks(workload)
    texts = {(d.id, at): d.messages[at].content for d in workload.dialogues for at in d.assistant_turns}
    scores = _scores(judge, workload, blocks, (texts,), progress)
    return tuple(
        Fit(*turn, people=people, reference=()) for turn, (people,) in zip(_turns(blocks), scores, strict=True)
    )


def fit_requests(workload: Workload) -> list[list[ReplyRequest]]:
    """For the replies that are read, and no others: one a dialogue."""
    by_id = {dialogue.id: dialogue for dialogue in workload.dialogues}
    return [[ReplyRequest(by_id[name], at, None, workload.greedy)] for name, at in _turns(draw_blocks(workload))]


def fit_of_candidate(
    judge: ServingSpec, workload: Workload, known: Sequence[Fit], replies: Sequence[ScoredReply], progress: Progress
) -> tuple[Fit, ...]:
    """``known``, of the reference or of people alone, with the candidate's replies scored beside the same dialogues.

    Raises:
        ValueError: it was read of other turns than the workload draws.
    """
    blocks = draw_blocks(workload)
    if [(fit.dialogue, fit.turn) for fit in known] != _turns(blocks):
        raise ValueError("what is known was read of other turns than this workload draws")
    scores = _scores(judge, workload, blocks, (_greedy_texts(replies),), progress)
    return tuple(replace(fit, candidate=own) for fit, (own,) in zip(known, scores, strict=True))


def draw_blocks(workload: Workload) -> list[list[Turn]]:
    """The turns that are asked, eight to a block; the last block may hold fewer."""
    draw = random.Random(workload.seed)
    count = min(len(workload.dialogues), workload.fit_dialogues)
    some = draw.sample(workload.dialogues, count - count % TOGETHER or count)
    turns = [(d.id, draw.choice(d.assistant_turns)) for d in sorted(some, key=lambda d: d.source)]
    return [turns[at : at + TOGETHER] for at in range(0, len(turns), TOGETHER)]


def _turns(blocks: Sequence[Sequence[Turn]]) -> list[Turn]:
    return [turn for block in blocks for turn in block]


def share_of_own(log_p: Sequence[Sequence[float]]) -> Floats:
    """The probability that each reply belongs to its own dialogue, were all of them as likely before: [replies].

    p(reply | own) / sum p(reply | each). What says nothing, or fits two dialogues alike, is shared between them.
    log_p: [replies][dialogues], nats, a reply's own dialogue first.
    """
    return np.array([1 / np.exp(np.minimum(np.array(row) - row[0], 700.0)).sum() for row in log_p])


def _greedy_texts(replies: Sequence[ScoredReply]) -> dict[Turn, str]:
    return {(reply.dialogue, reply.turn): reply.text for reply in replies if reply.seed is None}


def _scores(
    judge: ServingSpec,
    workload: Workload,
    blocks: Sequence[Sequence[Turn]],
    parties: Sequence[Mapping[Turn, str]],
    progress: Progress,
) -> list[list[tuple[float, ...]]]:
    """Of each turn, of each party, log p after the turn's own dialogue and after the block's others."""
    by_id = {dialogue.id: dialogue for dialogue in workload.dialogues}

    def table(process: ServingProcess, block: Sequence[Turn]) -> Floats:
        """[dialogues, replies x parties]"""
        texts = [party[turn].strip() for turn in block for party in parties]
        prompts = [by_id[name].before(at) for name, at in block]
        return np.array([process.continuations(prompt, texts, workload.fit_tokens) for prompt in prompts])

    scores = list[list[tuple[float, ...]]]()
    alone = replace(judge, at=OperatingPoint(threads=1, kv_bits=judge.at.kv_bits))
    for count, scored in enumerate(in_processes(alone, blocks, table), start=1):
        for own in range(len(scored)):
            columns = np.roll(scored, -own, axis=0)[:, own * len(parties) : (own + 1) * len(parties)]
            scores.append([tuple(map(float, column)) for column in columns.T])
        progress(f"what fits: {count / len(blocks):.0%}")
    return scores
