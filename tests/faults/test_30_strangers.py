"""Who may ask: nobody without the key on any route, nobody from elsewhere without one, no page of another site."""

from __future__ import annotations

from http.client import HTTPConnection
from pathlib import Path
from unittest.mock import Mock

import pytest

from halfwatt.serve.app import make_app
from tests.support.live_server import ASK, Client, serving
from tests.support.refusals import refused

ELSEWHERE = ("/elsewhere", "//health", "/health/", "/v1/../health")


def test_every_route_wants_the_key_but_health(artifact: Path) -> None:
    with serving(artifact, key="secret") as client:
        assert client.ask(ASK)[0] == 200
        stranger = Client(client.port, client.live)
        routes = {route.path for route in make_app(Mock()).routes} - {"/health"}  # type: ignore[attr-defined]
        assert {"/", "/metrics", "/v1/chat/completions", "/page/page.js"} <= routes
        for route in (*routes, *ELSEWHERE):
            for headers in ({}, {"Authorization": "Bearer"}, {"Authorization": "Bearer secre"}, {"Authorization": "é"}):
                sent = {name: value.encode().decode("latin-1") for name, value in headers.items()}
                assert stranger.ask(ASK, route, **sent)[0] == 401, (route, headers)
                assert stranger.ask(None, route, **sent)[0] == 401, (route, headers)
        assert stranger.ask(path="/health")[0] == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "example.org"])
def test_beyond_this_machine_only_with_a_key(
    host: str, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HALFWATT_API_KEY", raising=False)
    says = ("--host",) if host == "example.org" else ("HALFWATT_API_KEY",)
    refused("serve", artifact, "--host", host, says=says, within=tmp_path)


def test_pages_of_other_sites_get_no_leave(server: Client) -> None:
    connection = HTTPConnection("127.0.0.1", server.port)
    for method in ("OPTIONS", "GET"):
        connection.request(method, "/v1/models", headers={"Origin": "https://example.org"})
        answer = connection.getresponse()
        answer.read()
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]
    connection.close()
    assert server.ask(ASK, Host="example.org")[0] == 403, "under a name that leads here"
    assert server.ask(ASK, **{"Content-Type": "text/plain"})[0] == 400, "what a form of another page may send"


def test_a_prompt_that_leaves_no_room_is_refused(server: Client) -> None:
    status, answer = server.ask({"messages": [{"role": "user", "content": "light " * 2000}]})
    assert status == 400
    assert answer["error"]["code"] == "context_length_exceeded"
