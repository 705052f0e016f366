"""Requests of any size and shape: refused shortly, at their size or by their fault, and the server's memory stays."""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from typing import Any

import psutil
import pytest

from tests.support.live_server import ASK, Client

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
MB = 1 << 20


def answered(connection: socket.socket) -> bytes:
    """All that comes until the server hangs up."""
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass  # it had read enough
    return b"".join(parts)


def test_a_long_body_is_refused_by_the_length_that_it_tells(server: Client) -> None:
    with server.connect() as connection:
        connection.sendall(HEAD + b"Content-Length: 100000000\r\n\r\n")
        answer = answered(connection)
    assert b" 413 " in answer.split(b"\r\n")[0]
    assert len(answer) < 2000


def test_a_long_body_in_chunks_is_refused_once_it_is_too_long(server: Client) -> None:
    before = psutil.Process().memory_info().rss
    with server.connect() as connection:
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        try:
            for _ in range(100):
                connection.sendall(b"100000\r\n" + b" " * MB + b"\r\n")
        except (BrokenPipeError, ConnectionResetError):
            pass
        answer = answered(connection)
    assert not answer or b" 413 " in answer.split(b"\r\n")[0]
    assert psutil.Process().memory_info().rss < before + 40 * MB
    assert server.ask(ASK)[0] == 200


@pytest.mark.parametrize("line", [b"X-%d: 1\r\n", b"X: %d\r\n"], ids=["of many names", "of one name"])
def test_a_long_head_is_refused(line: bytes, server: Client) -> None:
    began_s = time.monotonic()
    with server.connect() as connection:
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(HEAD + b"".join(line % n for n in range(10_000)) + b"\r\n")
        answer = answered(connection)
    assert not answer or answer.split(b" ")[1] in (b"400", b"431")
    assert time.monotonic() - began_s < 5, "and hung up on"
    assert server.ask(ASK)[0] == 200


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 500_000,
        b'{"messages": ' + b'{"a":' * 100_000,
        b'{"messages": [{"role": "user", "content": "\xff\xfe"}]}',
        ASK | {"n": 10**9},
        ASK | {"max_tokens": 10**9},
        ASK | {"max_tokens": 10**30},
        ASK | {"temperature": -1},
        ASK | {"temperature": "hot"},
        ASK | {"stop": ["a"] * 1000},
        ASK | {"seed": 1.5},
        ASK | {"messages": [{"role": "user", "content": "x"}] * 3 + [{"role": "tool", "content": "y"}]},
        ASK | {"y" * 100_000: 1},
    ],
    ids=range(12),
)
def test_what_makes_no_sense_is_refused_in_a_few_words(body: Any, server: Client) -> None:
    status, answer = server.ask(body)
    assert status == 400
    assert len(str(answer)) < 1000
    assert answer["error"]["message"]
