"""A cascade behind the protocol: each prompt is answered by whom it is for, and who it was is said."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from halfwatt.dialogues.dialogue import Dialogue, Message
from halfwatt.formats.artifact import read_artifact
from halfwatt.models.sampling import Sampling
from halfwatt.runtimes.base import OperatingPoint
from halfwatt.runtimes.llamacpp import LlamaCpp
from tests.support.cascades import SAID, tiny_cascade
from tests.support.live_server import ASK, Client, serving

KNOWN, OTHER = SAID[0], "Quelle heure est-il?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_cascade(tmp_path_factory.mktemp("cascade")).path


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[Client]:
    with serving(folder) as client:
        yield client


def asking(text: str) -> dict[str, Any]:
    return ASK | {"messages": [{"role": "user", "content": text}]}


def alone(folder: Path, part: str, text: str) -> str:
    with LlamaCpp().open(read_artifact(folder / part), OperatingPoint(threads=1)) as session:
        return session.reply([Dialogue("d", (Message("user", text),))], Sampling(max_new_tokens=12))[0].text


def test_each_is_answered_by_whom_it_is_for(client: Client, folder: Path) -> None:
    for text, part in ((KNOWN, "student"), (OTHER, "original")):
        status, answer = client.ask(asking(text))
        assert status == 200
        assert answer["choices"][0]["message"]["content"] == alone(folder, part, text)
        assert answer["model"] == "cascade", "one model to clients"
        assert answer["usage"]["answered_by"] == part
        assert answer["usage"]["energy"]["cpu_seconds"] > 0


def test_both_at_once(client: Client, folder: Path) -> None:
    expected = {text: alone(folder, part, text) for text, part in ((KNOWN, "student"), (OTHER, "original"))}
    with ThreadPoolExecutor(6) as several:
        asked = [KNOWN, OTHER] * 6
        answers = list(several.map(lambda text: client.ask(asking(text))[1], asked))
    assert [answer["choices"][0]["message"]["content"] for answer in answers] == [expected[text] for text in asked]


def test_a_text_that_is_no_dialogue_is_for_the_original(client: Client) -> None:
    status, answer = client.ask({"prompt": KNOWN, "max_tokens": 4}, path="/v1/completions")
    assert (status, answer["usage"]["answered_by"]) == (200, "original")


def test_streamed_it_says_who_answers(client: Client) -> None:
    events = client.stream(asking(KNOWN) | {"stream_options": {"include_usage": True}})
    assert [event for event in events if isinstance(event, dict)][-1]["usage"]["answered_by"] == "student"


def test_it_is_one_model_in_the_list_and_in_the_metrics(client: Client) -> None:
    (entry,) = client.ask(path="/v1/models")[1]["data"]
    assert entry["id"] == "cascade"
    assert client.ask(path="/health")[0] == 200
    assert "halfwatt_replies_in_the_making 0.0" in client.ask(path="/metrics")[1]
