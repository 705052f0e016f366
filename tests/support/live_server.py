"""A server in a thread of the tests' own process: what a client sees of it, without a second of starting."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from halfwatt.api.live import LiveModel
from halfwatt.core.settings import RunSettings
from halfwatt.formats.gguf import Gguf
from halfwatt.models.chat_model import load
from halfwatt.runtimes.llamacpp_batched import BatchedSession
from halfwatt.serve.answers import Mailbox
from halfwatt.serve.guard import local_names
from halfwatt.serve.server import guarded_app, http_server, open_models
from halfwatt.serve.settings import ServeSettings
from tests.support import tiny_models as tiny

ASK = {"messages": [{"role": "user", "content": "Turn on the kitchen light"}], "temperature": 0, "max_tokens": 12}


LONG = ASK | {"max_tokens": 400}


def raw_request(body: dict[str, Any]) -> bytes:
    """The bytes of a request for a chat completion."""
    raw = json.dumps(body).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(raw)}\r\n\r\n".encode() + raw


def slow_passes(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let a pass of a tiny model take as long as one of a large model."""
    advance = BatchedSession.advance

    def slowly(session: BatchedSession) -> None:
        time.sleep(seconds)
        advance(session)

    monkeypatch.setattr(BatchedSession, "advance", slowly)


def until(so: Callable[[], bool], patience_s: float = 10.0) -> bool:
    """Wait for it; False = it did not come."""
    end_s = time.monotonic() + patience_s
    while not so() and time.monotonic() < end_s:
        time.sleep(0.01)
    return so()


@dataclass(frozen=True)
class Client:
    """Of one server."""

    port: int
    live: LiveModel
    key: str | None = None

    def connect(self) -> socket.socket:
        """For bytes as they stand."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def ask(self, body: Any = None, path: str = "/v1/chat/completions", **headers: str) -> tuple[int, Any]:
        """Status, and the JSON or text of the answer. body: JSON, or bytes; None = GET."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        own = {"Content-Type": "application/json"} | (
            {} if self.key is None else {"Authorization": f"Bearer {self.key}"}
        )
        raw = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        try:
            connection.request("GET" if body is None else "POST", path, raw, own | headers)
            answer = connection.getresponse()
            text = answer.read().decode()
            kind = answer.headers.get("content-type", "")
            return answer.status, json.loads(text) if kind == "application/json" else text
        finally:
            connection.close()

    def stream(self, body: dict[str, Any]) -> list[Any]:
        """The records of a streamed answer, comments as text."""
        status, text = self.ask(body | {"stream": True})
        assert status == 200, text
        events = [event for event in text.split("\n\n") if event]
        assert events[-1] == "data: [DONE]"
        return [json.loads(e.removeprefix("data: ")) if e.startswith("data: ") else e for e in events[:-1]]


@contextmanager
def serving(model: Path, key: str | None = None, **settings: Any) -> Iterator[Client]:
    """A server of a model or artifact; settings: of `ServeSettings`."""
    told, mailbox = ServeSettings(**({"users": 4, "max_reply_tokens": 64} | settings)), Mailbox()
    with ExitStack() as stack:
        models = open_models(stack, str(model), RunSettings(), mailbox, told)
        live = next(iter(models.values()))
        app = guarded_app(models, mailbox, told, key, local_names("127.0.0.1"))
        server, listening = http_server(app, told), socket.create_server(("127.0.0.1", 0))

        async def run() -> None:
            mailbox.open(asyncio.get_running_loop())
            await server.serve(sockets=[listening])

        thread = threading.Thread(target=lambda: asyncio.run(run()))
        thread.start()
        try:
            yield Client(listening.getsockname()[1], live, key)
        finally:
            server.should_exit = True
            thread.join()
            listening.close()


def tiny_artifact(folder: Path) -> Path:
    """A random model for llama.cpp."""
    return Gguf().write(load(tiny.folder(folder, "llama")), folder / "artifact").path
