"""Clients that dawdle or go: they are hung up on, nothing more is made for them, and others are served meanwhile."""

from __future__ import annotations

import asyncio
import time
from unittest.mock import Mock

import pytest

from halfwatt.serve import guard
from halfwatt.serve import server as http
from tests.support.live_server import ASK, LONG, Client, raw_request, until


@pytest.mark.parametrize("sent", [b"", b"POST /v1/chat/comp", raw_request(ASK)[:200]], ids=["nothing", "head", "body"])
def test_who_does_not_end_a_request_is_hung_up_on(sent: bytes, server: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_HEAD_S", 0.3)
    monkeypatch.setattr(guard, "_BODY_S", 0.3)
    with server.connect() as connection:
        connection.sendall(sent)
        assert server.ask(ASK)[0] == 200, "others are served meanwhile"
        answer = connection.recv(4096)
    assert not answer or b" 408 " in answer.split(b"\r\n")[0]


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "at once"])
def test_for_who_is_gone_nothing_more_is_made(stream: bool, server: Client) -> None:
    before = gone(server)
    with server.connect() as connection:
        connection.sendall(raw_request(LONG | {"stream": stream}))
        assert until(lambda: server.live.engine.load == (1, 0))
        began_s = time.monotonic()
    assert until(lambda: server.live.engine.load == (0, 0))
    assert time.monotonic() - began_s < 2, "all of it would have taken four"
    assert until(lambda: gone(server) == before + 1)


def gone(server: Client) -> float:
    """Clients that had gone before the end of their answer, as the server counts them."""
    lines = [
        line
        for line in server.ask(path="/metrics")[1].splitlines()
        if line.startswith('halfwatt_requests_total{status="499"}')
    ]
    return float(lines[0].split()[-1]) if lines else 0.0


def test_who_reads_no_more_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_STALL_S", 0.05)
    transports = []

    async def stalled(resumed: bool) -> None:
        protocol = http._ImpatientProtocol(Mock(limit_concurrency=None), Mock(), {}, asyncio.get_running_loop())
        protocol.transport, protocol.flow = Mock(), Mock()
        protocol.pause_writing()
        if resumed:
            protocol.resume_writing()
        await asyncio.sleep(0.2)
        transports.append(protocol.transport)

    for resumed in (False, True):
        asyncio.run(stalled(resumed))
    assert [transport.abort.called for transport in transports] == [True, False]
