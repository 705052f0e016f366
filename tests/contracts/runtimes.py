"""What every runtime has to keep, at an operating point that it takes; see tests/runtimes/test_contract.py."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from scipy.special import log_softmax

from halfwatt.core.errors import BadInput, ModelError
from halfwatt.dialogues.dialogue import Dialogue, Message
from halfwatt.formats.artifact import Artifact
from halfwatt.models.chat_model import ChatModel
from halfwatt.models.sampling import Sampling
from halfwatt.runtimes.base import OperatingPoint, Reply, Runtime, Session
from tests.support import tiny_models as tiny

GREEDY = Sampling(max_new_tokens=16)
DRAWN = Sampling(temperature=1.5, top_k=50, max_new_tokens=12, seed=7)
TALK = tiny.dialogues()[2]  # of three exchanges
FIRST, SECOND, THIRD = (TALK.before(turn) for turn in TALK.assistant_turns)
OTHERS = tuple(d.before(d.assistant_turns[-1]) for d in tiny.dialogues())


@dataclass(frozen=True)
class RuntimeRow:
    """One runtime at one operating point.

    artifact:  of ``model``, a tiny llama
    weights:   the file of the artifact that holds its weights
    """

    runtime: Runtime
    at: OperatingPoint
    model: ChatModel
    artifact: Artifact
    weights: Path

    def open(self, at: OperatingPoint | None = None) -> AbstractContextManager[Session]:
        return self.runtime.open(self.artifact, at or self.at)


def drain(stream: Generator[str, None, Reply]) -> tuple[list[str], Reply]:
    """The pieces of a stream, and the reply that it returns."""
    pieces: list[str] = []
    while True:
        try:
            pieces.append(next(stream))
        except StopIteration as end:
            return pieces, end.value


def answers(row: RuntimeRow) -> None:
    """A reply says what it is: its text, the tokens of its prompt, and whether a stop token or the cap ended it."""
    with row.open() as session:
        replies = [session.reply([prompt], GREEDY)[0] for prompt in OTHERS]
    for prompt, reply in zip(OTHERS, replies, strict=True):
        tokenizer = row.model.tokenizer
        assert reply.text == tokenizer.decode(reply.token_ids)
        assert reply.tokens_in == len(tokenizer.prompt_ids(prompt))
        assert 0 < len(reply.token_ids) <= GREEDY.max_new_tokens
        assert reply.stopped == (reply.token_ids[-1] in tokenizer.eos_ids)
        assert reply.stopped or len(reply.token_ids) == GREEDY.max_new_tokens


def a_batch_answers_as_each_alone(row: RuntimeRow) -> None:
    """Whatever the runtime does with several dialogues, each has the reply that it has alone."""
    with row.open(replace(row.at, reuse_prefix=False)) as session:
        alone = [session.reply([prompt], GREEDY)[0] for prompt in OTHERS]
        size = row.at.batch if row.at.batch > 1 else len(OTHERS)
        together = [r for i in range(0, len(OTHERS), size) for r in session.reply(OTHERS[i : i + size], GREEDY)]
    assert together == alone


def many_replies_are_each_as_alone(row: RuntimeRow) -> None:
    """More than are answered at once, by several samplings, with prefixes in common: none hangs on its neighbours."""
    asked = [
        (prompt, how) for prompt in (*OTHERS, FIRST, SECOND, THIRD) for how in (GREEDY, DRAWN, replace(DRAWN, seed=8))
    ]
    with row.open(replace(row.at, reuse_prefix=False)) as session:
        alone = [session.reply([prompt], how)[0] for prompt, how in asked]
    with row.open(replace(row.at, batch=3, reuse_prefix=False)) as session:
        together = session.replies(*map(list, zip(*asked, strict=True)))
    with row.open(replace(row.at, batch=3)) as session:
        greedy = session.replies([prompt for prompt, how in asked if how is GREEDY], [GREEDY] * (len(asked) // 3))
    assert [r.token_ids for r in together] == [r.token_ids for r in alone]
    assert [r.token_ids for r in greedy] == [r.token_ids for r in alone[::3]]


def streams_the_same_reply(row: RuntimeRow) -> None:
    """In whole characters; and a stream that is left early does not spoil the next reply."""
    with row.open() as session:
        for prompt in OTHERS:
            session.reset()
            whole = session.reply([prompt], GREEDY)[0]
            session.reset()
            pieces, streamed = drain(session.stream(prompt, GREEDY))
            assert streamed == whole
            assert "".join(pieces) == whole.text
            assert len(pieces) > 1
            assert not any(piece.endswith("\ufffd") for piece in pieces[:-1])
        session.reset()
        stream = session.stream(prompt, GREEDY)
        next(stream)
        stream.close()
        assert session.reply([prompt], GREEDY)[0].token_ids == whole.token_ids


def a_seed_repeats(row: RuntimeRow) -> None:
    """A reply that is drawn depends on its seed alone."""
    with row.open() as session:
        a, b, c = (session.reply([FIRST], replace(DRAWN, seed=seed))[0].token_ids for seed in (7, 7, 8))
    assert a == b != c


def gives_logits_of_every_token(row: RuntimeRow) -> None:
    """[tokens, vocabulary] in float32; the greedy reply is what they prefer; they are no reply and read no bytes."""
    with row.open() as session:
        for dialogue in tiny.dialogues():
            logits = session.logits(dialogue)
            tokens = len(row.model.tokenizer.scored(dialogue).ids)
            assert logits.shape == (tokens, row.model.network.config.vocab_size)
            assert logits.dtype == np.float32
            assert np.isfinite(logits).all()
            some = session.logits(dialogue, [1, tokens - 1])
            assert some == pytest.approx(logits[[1, tokens - 1]], abs=0.02)
        assert session.bytes_moved() == 0
        prompt = len(row.model.tokenizer.prompt_ids(FIRST))
        assert session.reply([FIRST], GREEDY)[0].token_ids[0] == int(session.logits(TALK)[prompt - 1].argmax())


def scores_texts_after_a_prompt(row: RuntimeRow) -> None:
    """As its logits say, whatever stands beside them; an empty text is certain, and replies stay what they were."""
    tokenizer, human = row.model.tokenizer, TALK.messages[TALK.assistant_turns[0]].content
    prompt, whole = len(tokenizer.prompt_ids(FIRST)), TALK.before(TALK.assistant_turns[0] + 1)
    with row.open() as session:
        before = session.reply([FIRST], GREEDY)
        texts = [human, "", "Something else, and longer than what a person said there.", human]
        first, empty, other, again = session.continuations(FIRST, texts, 3)
        alone = session.continuations(FIRST, texts[2:3], 3)
        log_p = log_softmax(session.logits(whole).astype(float), axis=1)
        assert session.reply([FIRST], GREEDY)[0].token_ids == before[0].token_ids
    expected = sum(log_p[prompt - 1 + n, token] for n, token in enumerate(tokenizer.encode(human)[:3]))
    assert first == pytest.approx(expected, abs=0.02)
    assert [again, *alone] == pytest.approx([first, other], abs=0.01)
    assert empty == 0.0


def keeps_the_prefix_if_it_says_so(row: RuntimeRow, *, keeps: bool) -> None:
    """The turns before are not computed again, unless the operating point or `reset` forbids it; replies stay equal."""
    with row.open() as session, row.open(replace(row.at, reuse_prefix=False)) as forgetful:
        kept, fresh = (
            [each.reply([prompt], GREEDY)[0] for prompt in (FIRST, SECOND, THIRD)] for each in (session, forgetful)
        )
        session.reset()
        again = session.reply([THIRD], GREEDY)[0]
    assert [r.token_ids for r in kept] == [r.token_ids for r in fresh]
    assert [r.tokens_cached for r in fresh] == [0, 0, 0]
    assert [r.tokens_cached for r in kept] == ([0, kept[0].tokens_in, kept[1].tokens_in] if keeps else [0, 0, 0])
    assert again == fresh[2]


def counts_the_bytes_of_replies(row: RuntimeRow) -> None:
    """At least the weights once a token; the same replies again read as much again."""
    with row.open(replace(row.at, reuse_prefix=False)) as session:
        assert session.bytes_moved() == 0
        reply = session.reply([FIRST], GREEDY)[0]
        once = session.bytes_moved()
        assert once > len(reply.token_ids) * row.artifact.weights_read_b
        session.sync()
        session.reply([FIRST], GREEDY)
        assert session.bytes_moved() == 2 * once


def refuses_what_does_not_fit(row: RuntimeRow) -> None:
    """A prompt beyond the context is refused before any work, and the next one is answered."""
    with row.open() as session:
        for words in (600, 5000):
            long = Dialogue("long", (Message("user", "light " * words), Message("assistant", "ok")))
            with pytest.raises(BadInput, match=r"a context of 512.*shorten"):
                session.reply([long.before(1)], GREEDY)
            with pytest.raises(BadInput, match="a context of 512"):
                session.logits(long)
        assert session.bytes_moved() == 0
        assert session.reply([FIRST], GREEDY)


def refuses_another_file(row: RuntimeRow) -> None:
    """Weights that are not those that were written are never loaded."""
    whole = row.weights.read_bytes()
    try:
        row.weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(ModelError, match=r"is not the (file|model) that was exported"), row.open():
            pass
    finally:
        row.weights.write_bytes(whole)


CONTRACT = (
    answers,
    a_batch_answers_as_each_alone,
    many_replies_are_each_as_alone,
    streams_the_same_reply,
    a_seed_repeats,
    gives_logits_of_every_token,
    scores_texts_after_a_prompt,
    counts_the_bytes_of_replies,
    refuses_what_does_not_fit,
    refuses_another_file,
)
