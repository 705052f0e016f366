"""Who may ask, and how much: in front of every route, and off for none but those that are listed.

Plain ASGI: what a request brings is counted as it comes, whether its length is told or not, and taken only whole.
"""

from __future__ import annotations

import asyncio
import hmac
import json
from base64 import b64decode
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from halfwatt.serve.protocol import fault

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_BODY_S = 20.0  # that a client has for a body
PUBLIC = frozenset({"/health"})  # no key is asked for


@dataclass(frozen=True, slots=True)
class Guard:
    """Lets through to ``app`` what may pass.

    key: None = nobody needs one; hosts: names that a browser may have asked for, of a server for this machine alone, so
    that a page elsewhere cannot reach it under a name of its own; None = any; body, head: bytes; count: gets the status
    of each answer, 499 where the client had gone before its end
    """

    app: App
    key: str | None
    hosts: frozenset[str] | None
    body: int
    head: int
    count: Callable[[int], None]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        if scope["type"] != "http":
            return
        status, ended = 499, False

        async def counted(event: Event) -> None:
            nonlocal status, ended
            await send(event)
            status = event.get("status", status)
            ended = event["type"] == "http.response.body" and not event.get("more_body", False)

        try:
            await self._guarded(scope, receive, counted)
        finally:
            self.count(status if ended else 499)

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (refusal := self._refusal(scope["path"], scope["headers"])) is not None:
            await _answer(send, *refusal)
            return
        try:
            async with asyncio.timeout(_BODY_S):
                body = await _body(receive, self._most(scope["path"]))
        except TimeoutError:
            await _answer(send, 408, f"the body took longer than {_BODY_S:g} s")
            return
        if body is None:
            await _answer(send, 413, "the body is too long")
            return
        await self.app(scope, _replayed(body, receive), send)

    def _refusal(self, path: str, lines: Sequence[tuple[bytes, bytes]]) -> tuple[int, str] | None:
        if sum(len(name) + len(value) for name, value in lines) > self.head:
            return 431, f"the head is longer than {self.head} bytes"  # one that came at once was read whole
        headers = {name.lower(): value for name, value in lines}
        host = headers.get(b"host", b"").decode("latin-1")
        if self.hosts is not None and _name_of(host) not in self.hosts:
            return 403, "the Host header names another server; ask for localhost"
        if self.key is not None and path not in PUBLIC:
            given = _credential(headers.get(b"authorization", b""))
            if not hmac.compare_digest(given, self.key.encode()):
                return 401, "no key, or another one; send it as: Authorization: Bearer KEY"
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or len(length) > 18 or int(length) > self._most(path):
            return 413, f"the body is longer than {self._most(path)} bytes"
        return None

    def _most(self, path: str) -> int:
        return 0 if path in PUBLIC else self.body


async def _body(receive: Receive, most: int) -> bytes | None:
    """All of it; None = it is too long."""
    body, more = bytearray(), True
    while more:
        event = await receive()
        body += event.get("body", b"")
        more = event["type"] == "http.request" and event.get("more_body", False)
        if len(body) > most:
            return None
    return bytes(body)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """The body at once, then what comes."""
    first: list[Event] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Event:
        return first.pop() if first else await receive()

    return replayed


def local_names(host: str) -> frozenset[str] | None:
    """What a server that listens on ``host`` is called, if only this machine reaches it; None = others do."""
    if host == "localhost" or ip_address(host).is_loopback:
        return frozenset({"localhost", "127.0.0.1", "::1", host})
    return None


def _credential(header: bytes) -> bytes:
    """A key as programs send it, or as the password that a browser asks for."""
    scheme, _, rest = header.strip().partition(b" ")
    if scheme.lower() == b"basic":
        with suppress(ValueError):
            return b64decode(rest, validate=True).partition(b":")[2]
    return rest if scheme.lower() == b"bearer" else b""


def _name_of(host: str) -> str:
    """Without its port: "[::1]:8080" is "::1"."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


async def _answer(send: Send, status: int, text: str) -> None:
    body = json.dumps(fault(text, "invalid_request_error")).encode()
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    if status == 401:
        headers += [(b"www-authenticate", b"Bearer"), (b"www-authenticate", b'Basic realm="halfwatt"')]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
