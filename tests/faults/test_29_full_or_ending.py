"""A full server says so and when to come again; one that is told to end takes nothing more and ends what it began."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, IncompleteRead
from pathlib import Path

import pytest

from halfwatt.core.settings import RunSettings
from halfwatt.serve.server import serve
from halfwatt.serve.settings import ServeSettings
from tests.support.live_server import ASK, LONG, serving, until

JSON = {"Content-Type": "application/json"}


@pytest.mark.usefixtures("slow")
def test_a_full_one_says_when_to_come_again(artifact: Path) -> None:
    with serving(artifact, users=2, queue=1, max_reply_tokens=400) as client, ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(client.ask, LONG) for _ in range(3)]
        assert until(lambda: client.live.engine.load == (2, 1))
        connection = HTTPConnection("127.0.0.1", client.port)
        connection.request("POST", "/v1/chat/completions", json.dumps(ASK), JSON)
        answer = connection.getresponse()
        answer.read()
        connection.close()
        assert answer.status == 503
        assert int(answer.headers["retry-after"]) > 0
        assert {future.result()[0] for future in asked} == {200}
        assert client.ask(ASK)[0] == 200, "there is room again"


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("times", [1, 2], ids=["drained", "at once"])
def test_told_to_end_it_ends_what_it_began_and_takes_nothing_more(times: int, artifact: Path) -> None:
    """Once: what was begun comes to its end; twice: nothing does."""
    outcome: dict[str, object] = {}

    def ready(address: str) -> None:
        threading.Thread(target=visit_and_end, args=(int(address.rpartition(":")[2]),)).start()

    def visit_and_end(port: int) -> None:
        try:
            visit(port)
        finally:
            if "told_s" not in outcome:  # or the server would wait for ever
                os.kill(os.getpid(), signal.SIGTERM)

    def visit(port: int) -> None:
        connection, body = HTTPConnection("127.0.0.1", port), ASK | {"stream": True, "max_tokens": 90}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), JSON)
        answer = connection.getresponse()
        outcome["first"] = answer.readline()
        outcome["told_s"] = time.monotonic()
        for _ in range(times):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)
        outcome["refused"] = until(lambda: refuses(port))
        try:
            outcome["rest"] = answer.read()
        except (OSError, IncompleteRead) as error:
            outcome["rest"] = str(error).encode()
        connection.close()

    serve(str(artifact), RunSettings(), ServeSettings(port=0, users=2, drain_s=20), None, ready)
    ended_s = time.monotonic()
    assert until(lambda: "told_s" in outcome and "rest" in outcome)
    took_s = ended_s - float(outcome["told_s"])  # type: ignore[arg-type]
    assert took_s < 0.7 if times == 2 else took_s > 0.3, "90 tokens of 10 ms"
    assert str(outcome["first"]).startswith("b'data: {")
    assert outcome["refused"], "nothing new is taken"
    assert (b"data: [DONE]" in bytes(outcome["rest"])) == (times == 1)  # type: ignore[call-overload]


def refuses(port: int) -> bool:
    """Is nobody listening there?"""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False
