"""Replies for the gate, by a tiny real model in real serving processes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from halfwatt.core.settings import Access
from halfwatt.dialogues.dialogue import Dialogue, Message
from halfwatt.evaluate.replies import generate_replies, scored_reply, special_ids
from halfwatt.evaluate.requests import ReplyRequest, Workload
from halfwatt.models.sampling import Sampling
from halfwatt.models.tokenizer import ChatTokenizer
from halfwatt.runtimes.base import OperatingPoint, Reply
from halfwatt.runtimes.servable import servable
from halfwatt.runtimes.serving_process import ServingSpec
from tests.support import taught_students as taught
from tests.support import tiny_models as tiny


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ServingSpec:
    model, cache = tiny.folder(tmp_path_factory.mktemp("model")), tmp_path_factory.mktemp("cache")
    return replace(servable(str(model), Access(), cache, "llamacpp"), at=OperatingPoint(threads=1))


def test_replies_come_in_the_order_of_the_requests_whichever_process_answered(
    spec: ServingSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer, own = ChatTokenizer.load(spec.artifact.path), Sampling(temperature=1.0, max_new_tokens=12)
    requests = Workload(tuple(taught.dialogues()[:20]), tokenizer, own, 12, (), (1, 2)).requests()
    progress: list[str] = []
    several = generate_replies(spec, requests, progress.append, "here")
    monkeypatch.setattr("halfwatt.runtimes.serving_pool.cores", lambda: 1)
    assert generate_replies(spec, requests) == several
    flat = [request for rows in requests for request in rows]
    assert [(r.dialogue, r.turn, r.seed) for r in several] == [(q.dialogue.id, q.turn, q.seed) for q in flat]
    assert {r.seed for r in several} == {None, 1, 2}
    assert progress == ["here: 33%", "here: 67%", "here: 100%"]


def test_a_scored_reply_keeps_what_the_gate_needs(spec: ServingSpec) -> None:
    special = special_ids(ChatTokenizer.load(spec.artifact.path))
    assert special == set(range(len(tiny.SPECIAL)))
    dialogue = Dialogue("d", (Message("user", "Hi"), Message("assistant", "Hello!")))
    request = ReplyRequest(dialogue, 1, 2, Sampling(max_new_tokens=9))
    ended = scored_reply(request, Reply("so", (70, tiny.START, tiny.END), 5, 0, stopped=True), special)
    assert (ended.dialogue, ended.turn, ended.seed, ended.text, ended.cap) == ("d", 1, 2, "so", 9)
    assert (ended.reference, ended.tokens, ended.stopped, ended.leaked) == ("Hello!", 3, True, 1)
    thinking = Reply("Who is it?</think>\n\nso", (70, tiny.END), 5, 0, stopped=True)
    thoughtful = scored_reply(request, thinking, special, opened=True)
    assert (thoughtful.text, thoughtful.tokens, thoughtful.thought) == ("so", 2, len("Who is it?</think>\n\n"))
    endless = scored_reply(request, Reply("so", (tiny.START, tiny.START), 5, 0, stopped=False), special)
    assert (endless.tokens, endless.stopped, endless.leaked) == (2, False, 2)
