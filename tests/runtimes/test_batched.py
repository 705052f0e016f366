"""Several dialogues answered at once by llama.cpp: the replies that each would have had alone, in fewer passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from halfwatt.core.errors import BadInput
from halfwatt.dialogues.dialogue import Dialogue
from halfwatt.formats.artifact import Artifact
from halfwatt.formats.gguf import Gguf
from halfwatt.models.chat_model import load
from halfwatt.models.sampling import Sampling
from halfwatt.runtimes.base import OperatingPoint, Reply, Speculation
from halfwatt.runtimes.llamacpp import LlamaCpp
from halfwatt.runtimes.llamacpp_batched import BatchedSession
from halfwatt.runtimes.serving_process import ServingProcess, ServingSpec, in_batches
from tests.support import tiny_models as tiny
from tests.support.serving_requests import DRAWN, GREEDY, ONE, PROMPTS, STRICT


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    model = load(tiny.folder(tmp_path_factory.mktemp("model"), "llama"))
    return Gguf().write(model, tmp_path_factory.mktemp("artifact") / "out")


def answers(
    artifact: Artifact, at: OperatingPoint, how: Sampling, batches: Sequence[Sequence[Dialogue]]
) -> list[Reply]:
    with LlamaCpp().open(artifact, at) as session:
        return [reply for batch in batches for reply in session.reply(batch, how)]


@pytest.mark.parametrize("how", [GREEDY, DRAWN, STRICT], ids=["greedy", "drawn", "penalty"])
@pytest.mark.parametrize("batch", [2, 3, 8])
def test_each_has_the_reply_that_it_would_have_had_alone(artifact: Artifact, batch: int, how: Sampling) -> None:
    at = replace(ONE, batch=batch, reuse_prefix=False)
    alone = answers(artifact, replace(ONE, reuse_prefix=False), how, [PROMPTS])
    assert answers(artifact, at, how, [PROMPTS[i : i + batch] for i in range(0, len(PROMPTS), batch)]) == alone


def test_every_dialogue_keeps_its_cache_for_its_next_turn(artifact: Artifact) -> None:
    long = [d for d in tiny.dialogues() if len(d.assistant_turns) > 1]
    batches = in_batches([d.before(turn) for d in long for turn in d.assistant_turns], len(long))
    assert len(batches[0]) == len(batches[1]) == len(long) > 1
    found = answers(artifact, replace(ONE, batch=len(long)), GREEDY, batches)
    first, second = found[: len(long)], found[len(long) : 2 * len(long)]
    assert all(reply.tokens_cached == 0 for reply in first)
    assert all(after.tokens_cached >= before.tokens_in - 1 for before, after in zip(first, second, strict=True))
    fresh = answers(artifact, replace(ONE, reuse_prefix=False), GREEDY, batches)
    assert [reply.token_ids for reply in found] == [reply.token_ids for reply in fresh]


def test_a_pass_serves_all_of_them(artifact: Artifact) -> None:
    some = PROMPTS[:4]
    with LlamaCpp().open(artifact, replace(ONE, batch=4)) as session:
        replies = session.reply(some, GREEDY)
        longest = max(len(reply.token_ids) for reply in replies)
        at_once = session.bytes_moved()
    seen = sum(r.tokens_in + k for r in replies for k in range(len(r.token_ids)))  # by each pass, in every sequence
    passes = len(some) + longest - 1  # a prompt each, which says the first token, then one for all of them
    assert at_once == passes * artifact.weights_read_b + seen * artifact.kv_b_per_token
    with LlamaCpp().open(artifact, ONE) as session:
        session.reply(some, GREEDY)
        assert session.bytes_moved() > 1.5 * at_once


def test_alone_and_streamed_it_still_answers(artifact: Artifact) -> None:
    with LlamaCpp().open(artifact, replace(ONE, batch=2)) as session, LlamaCpp().open(artifact, ONE) as plain:
        assert isinstance(session, BatchedSession)
        session.reply(PROMPTS[:2], GREEDY)
        pieces = list(session.stream(PROMPTS[0], GREEDY))
        alone = plain.reply(PROMPTS[:1], GREEDY)[0]
        assert "".join(pieces) == alone.text
        again = session.reply(PROMPTS[:2], GREEDY)
        assert again[0].token_ids == alone.token_ids
        assert session.logits(tiny.dialogues()[0]).shape == plain.logits(tiny.dialogues()[0]).shape


def test_too_long_a_prompt_is_refused_before_any_is_answered(artifact: Artifact) -> None:
    endless = replace(PROMPTS[0], messages=PROMPTS[0].messages * 200)
    with LlamaCpp().open(artifact, replace(ONE, batch=2)) as session, pytest.raises(BadInput, match="does not fit"):
        session.reply([PROMPTS[0], endless], GREEDY)


def test_it_does_not_guess_ahead_for_several(artifact: Artifact) -> None:
    at = replace(ONE, batch=2, speculation=Speculation("lookup"))
    with pytest.raises(BadInput, match="one dialogue at a time"), LlamaCpp().open(artifact, at):
        pass


def test_the_worker_asks_the_same_turn_of_several_dialogues(artifact: Artifact, tmp_path: Path) -> None:
    with (
        ServingProcess(ServingSpec(artifact, replace(ONE, batch=3))) as worker,
        ServingProcess(ServingSpec(artifact, ONE)) as plain,
    ):
        several, alone = worker.run(PROMPTS, GREEDY), plain.run(PROMPTS, GREEDY)
    assert several.replies == alone.replies == len(PROMPTS)
    assert several.tokens_out == alone.tokens_out
    moved = [work.usage[1].bytes_b - work.usage[0].bytes_b for work in (several, alone)]
    assert moved[0] < 0.7 * moved[1]


@pytest.mark.parametrize("batch", [1, 2, 3, 50])
def test_what_is_asked_at_once_is_everything_once_and_of_different_dialogues(batch: int) -> None:
    batches = in_batches(PROMPTS, batch)
    flat = [prompt for some in batches for prompt in some]
    assert sorted(map(repr, flat)) == sorted(map(repr, PROMPTS))
    assert all(len(some) <= batch and len({d.id for d in some}) == len(some) for some in batches)
    for own in {d.id for d in PROMPTS}:
        turns = [len(d.messages) for d in flat if d.id == own]
        assert turns == sorted(turns), "a dialogue's turns keep their order"
