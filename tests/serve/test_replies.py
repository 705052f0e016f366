"""What clients get: the protocol's fields, streamed and not, the reply that the model would have given alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from halfwatt.api.live import energy_of
from halfwatt.core.errors import EnvironmentFault
from halfwatt.dialogues.dialogue import Dialogue, Message
from halfwatt.formats.artifact import read_artifact
from halfwatt.models.sampling import Sampling
from halfwatt.runtimes.base import OperatingPoint
from halfwatt.runtimes.llamacpp import LlamaCpp
from halfwatt.runtimes.llamacpp_batched import BatchedSession
from tests.support.live_server import ASK, Client, serving, slow_passes, tiny_artifact, until


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_artifact(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def client(artifact: Path) -> Iterator[Client]:
    with serving(artifact) as client:
        yield client


def alone(artifact: Path, dialogue: Dialogue, tokens: int) -> str:
    with LlamaCpp().open(read_artifact(artifact), OperatingPoint(threads=1)) as session:
        return session.reply([dialogue], Sampling(max_new_tokens=tokens))[0].text


def test_a_reply_is_the_models_own_with_what_it_took(client: Client, artifact: Path) -> None:
    status, answer = client.ask(ASK)
    assert status == 200
    expected = alone(artifact, Dialogue("d", (Message("user", "Turn on the kitchen light"),)), 12)
    (choice,) = answer["choices"]
    assert choice["message"] == {"role": "assistant", "content": expected, "refusal": None}
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "artifact"
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["completion_tokens"] <= 12
    assert choice["finish_reason"] == ("length" if usage["completion_tokens"] == 12 else "stop")
    energy = usage["energy"]
    assert energy["cpu_seconds"] > 0
    assert energy["kind"] in ("measured", "modelled")
    assert energy["grade"] in "ABCDE"
    assert answer["energy"]["energy_joules"] == energy["joules"] > 0


def test_streamed_it_says_the_same(client: Client) -> None:
    _, whole = client.ask(ASK)
    events = client.stream(ASK | {"stream_options": {"include_usage": True}})
    chunks = [event for event in events if isinstance(event, dict)]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    pieces = [c["choices"][0]["delta"].get("content", "") for c in chunks if c["choices"]]
    assert "".join(pieces) == whole["choices"][0]["message"]["content"]
    assert chunks[-2]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
    assert chunks[-1]["usage"]["energy"]["joules"] > 0
    assert events[-1].startswith(": energy {"), "a comment, which other clients pass over"
    plain = [event for event in client.stream(ASK) if isinstance(event, dict)]
    assert not any("usage" in chunk for chunk in plain), "nobody asked for it"


def test_the_next_turn_finds_its_prefix_in_the_cache(client: Client) -> None:
    first = [{"role": "user", "content": "Is the garage door open or closed?"}]
    _, answer = client.ask(ASK | {"messages": first})
    said = answer["choices"][0]["message"]["content"]
    then = [*first, {"role": "assistant", "content": said}, {"role": "user", "content": "And the light?"}]
    _, second = client.ask(ASK | {"messages": then})
    cached = second["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert answer["usage"]["prompt_tokens"] <= cached < second["usage"]["prompt_tokens"]


def test_chats_that_take_turns_keep_their_prefixes(client: Client) -> None:
    """Both begin with the template's first tokens: that is no reason to take the other's place."""
    talks = [[{"role": "user", "content": text}] for text in ("I'd like to book a table", "What's the weather like?")]
    before = [0, 0]  # tokens that each has said
    for _ in range(3):
        for number, talk in enumerate(talks):
            _, answer = client.ask(ASK | {"messages": talk})
            usage, said = answer["usage"], answer["choices"][0]["message"]["content"]
            assert usage["prompt_tokens_details"]["cached_tokens"] >= before[number]
            before[number] = usage["prompt_tokens"]
            talk += [{"role": "assistant", "content": said}, {"role": "user", "content": "And then?"}]


def test_a_prompt_that_cannot_be_read_is_nobody_elses_fault(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """llama.cpp that cannot compute forgets what it held: whoever was being answered hears so, and gets no garbage."""
    passing, broken = BatchedSession._pass, threading.Event()

    def breaking(session: BatchedSession, parts: Any, wanted: Any = None) -> None:
        time.sleep(0.005)
        if broken.is_set() and len(parts[0][1]) > 1:
            broken.clear()
            session.reset()
            raise EnvironmentFault("llama_decode failed with code -2")
        passing(session, parts, wanted)

    monkeypatch.setattr(BatchedSession, "_pass", breaking)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(client.ask, ASK | {"max_tokens": 60})
        assert until(lambda: client.live.engine.load == (1, 0))
        broken.set()
        second = pool.submit(client.ask, ASK | {"messages": [{"role": "user", "content": "Play some music"}]})
        assert {first.result()[0], second.result()[0]} == {500}
    assert client.live.engine.load == (0, 0)
    assert client.ask(ASK)[0] == 200


def test_the_first_token_is_timed_though_it_is_not_sent(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    slow_passes(monkeypatch, 0.02)
    client.ask(ASK)

    def seconds(what: str) -> float:
        lines = client.ask(path="/metrics")[1].splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(f"{what}_sum"))

    whole, first = (
        seconds("gen_ai_server_request_duration_seconds"),
        seconds("gen_ai_server_time_to_first_token_seconds"),
    )
    assert first < whole / 2


def test_without_a_meter_cpu_time_is_told_and_no_joules(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("halfwatt.serve.answers.energy_of", lambda spent, _, since_s: energy_of(spent, None, since_s))
    _, answer = client.ask(ASK)
    energy = answer["usage"]["energy"]
    assert energy.keys() == {"grade", "cpu_seconds", "seconds"}
    assert energy["grade"] == "F"
    assert energy["cpu_seconds"] > 0
    assert "energy" not in answer


def test_many_at_once_get_what_each_would_alone(client: Client, artifact: Path) -> None:
    texts = [f"Your order {n} was shipped" for n in range(12)]
    asked = [ASK | {"messages": [{"role": "user", "content": text}]} for text in texts]
    one_by_one = [alone(artifact, Dialogue("d", (Message("user", text),)), 12) for text in texts]
    with ThreadPoolExecutor(12) as pool:
        together = [answer for _, answer in pool.map(client.ask, asked)]
    assert [answer["choices"][0]["message"]["content"] for answer in together] == one_by_one
    assert client.live.engine.load == (0, 0)


def test_parts_add_up_to_the_whole(artifact: Path) -> None:
    """Of CPU time and joules nothing is counted twice, and nothing lost."""
    with serving(artifact) as client, ThreadPoolExecutor(8) as pool:
        answers = [answer for _, answer in pool.map(client.ask, [ASK | {"max_tokens": 30}] * 8)]
        spent, told = client.live.shares.serving, [answer["usage"]["energy"] for answer in answers]
        assert sum(energy["cpu_seconds"] for energy in told) == pytest.approx(spent.cpu_s)
        if spent.joules is not None:
            assert sum(energy["joules"] for energy in told) == pytest.approx(spent.joules)


def test_a_text_that_ends_the_reply_is_no_part_of_it(client: Client) -> None:
    _, whole = client.ask(ASK | {"max_tokens": 40})
    text = whole["choices"][0]["message"]["content"]
    stop = text[len(text) // 2 :][:3]
    _, stopped = client.ask(ASK | {"max_tokens": 40, "stop": [stop]})
    assert stopped["choices"][0]["message"]["content"] == text[: text.index(stop)]
    assert stopped["choices"][0]["finish_reason"] == "stop"
    events = client.stream(ASK | {"max_tokens": 40, "stop": stop})
    pieces = [e["choices"][0]["delta"].get("content", "") for e in events if isinstance(e, dict) and e["choices"]]
    assert "".join(pieces) == text[: text.index(stop)]


def test_a_text_is_gone_on_with_as_it_stands(client: Client) -> None:
    status, answer = client.ask({"prompt": "The light", "max_tokens": 5, "temperature": 0}, "/v1/completions")
    assert status == 200
    assert answer["object"] == "text_completion"
    assert answer["usage"]["prompt_tokens"] == len(client.live.tokenizer.encode("The light"))
    assert answer["choices"][0]["text"]


def test_the_same_seed_draws_the_same(client: Client) -> None:
    drawn = ASK | {"temperature": 1.0, "seed": 3, "max_tokens": 20}
    texts = [client.ask(drawn | more)[1]["choices"][0]["message"]["content"] for more in ({}, {}, {"seed": 4})]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"messages": []}, 400, "messages"),
        (b"[]", 400, "not a JSON object"),
        (b"{", 400, "not JSON"),
        (ASK | {"tools": [{"type": "function"}]}, 400, "tools is not done here"),
        (ASK | {"n": 2}, 400, "n is not done here"),
        (ASK | {"response_format": {"type": "json_object"}}, 400, "response_format"),
        (ASK | {"tempertaure": 1}, 400, "tempertaure"),
        (ASK | {"temperature": -1}, 400, "temperature"),
        (ASK | {"max_tokens": 0}, 400, "max_tokens"),
        (ASK | {"temperature": 10**400}, 400, "temperature"),
        (ASK | {"repetition_penalty": float("inf")}, 400, "repetition_penalty"),
        ({"messages": [{"role": "user", "content": "a\ud83d"}]}, 400, "not JSON in UTF-8"),
        ({"messages": [{"role": "user", "content": "Hi", "name": "Ann"}]}, 400, "name"),
        (ASK | {"model": "gpt-4"}, 404, "ask for artifact"),
        ({"messages": [{"role": "user", "content": "<|im_end|>"}]}, 400, "token of the model's template"),
        ({"messages": [{"role": "assistant", "content": "Hi"}]}, 400, "has to be the user's"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            400,
            "image_url is not done here",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(client: Client, body: Any, status: int, says: str) -> None:
    got, answer = client.ask(body)
    assert got == status, answer
    assert says in answer["error"]["message"]


def test_what_asks_for_nothing_is_taken(client: Client) -> None:
    quiet = {"n": 1, "logprobs": False, "tools": None, "user": "me", "presence_penalty": 0, "store": False}
    parts = [{"role": "user", "content": [{"type": "text", "text": "Turn on the "}, {"type": "text", "text": "light"}]}]
    assert client.ask(ASK | quiet | {"messages": parts, "model": "artifact", "max_tokens": 16_384})[0] == 200
    sent_back: dict[str, Any] = {
        "role": "assistant",
        "content": "Hi",
        "tool_calls": None,
        "audio": None,
        "refusal": None,
        "annotations": [],
    }
    talk = [{"role": "user", "content": "Hi"}, sent_back, {"role": "user", "content": "And then?"}]
    assert client.ask(ASK | {"messages": talk})[0] == 200, "what clients send back of what they got"


def test_other_routes(client: Client) -> None:
    assert client.ask(path="/health") == (200, {"status": "ok"})
    assert client.ask(path="/v1/models")[1]["data"][0]["id"] == "artifact"
    assert client.ask(path="/elsewhere")[0] == 404
    client.ask(ASK)
    status, text = client.ask(path="/metrics")
    assert status == 200
    for name in ("gen_ai_server_time_to_first_token_seconds_count", "halfwatt_cpu_seconds_total", "halfwatt_requests"):
        assert name in text


def test_the_original_beside_it_answers_by_its_name(artifact: Path, tmp_path: Path) -> None:
    """Both at once: they take turns, and each is charged with its own passes."""
    other = tiny_artifact(tmp_path)
    with serving(artifact, beside=str(other)) as client, ThreadPoolExecutor(4) as pool:
        listed = client.ask(path="/v1/models")[1]["data"]
        assert [(entry["id"], entry["halfwatt"]["role"]) for entry in listed] == [
            ("artifact", "optimized"),
            ("original", "original"),
        ]
        bodies = [ASK | {"model": entry["id"], "max_tokens": 30} for entry in listed] * 2
        answers = [answer for _, answer in pool.map(client.ask, bodies)]
        assert [answer["model"] for answer in answers] == [body["model"] for body in bodies]
        told = sum(answer["usage"]["energy"]["cpu_seconds"] for answer in answers)
        assert told == pytest.approx(client.live.shares.serving.cpu_s)


def test_it_comes_while_it_is_made(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    slow_passes(monkeypatch, 0.03)
    pieces = [
        e
        for e in client.stream(ASK)
        if isinstance(e, dict) and e["choices"] and e["choices"][0]["delta"].get("content")
    ]
    assert len(pieces) > 4, "each token, where one takes so long"
