"""From a model's name to a server that answers until it is told to end."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from halfwatt.api.live import LiveEngine, LiveModel, Places, open_live
from halfwatt.core.errors import BadInput, EnvironmentFault
from halfwatt.core.settings import RunSettings
from halfwatt.serve.answers import Mailbox
from halfwatt.serve.app import Desk, make_app
from halfwatt.serve.guard import Guard, local_names
from halfwatt.serve.metrics import Metrics
from halfwatt.serve.settings import ServeSettings

_HEAD_S = 10.0  # that a client has for the head of a request
_STALL_S = 20.0  # that it may leave unread what was written
_BESIDE = 256  # connections that ask for other things, or for nothing yet
_LOOK_S = 1.0  # after so long it is seen that an engine has stopped
_KEEP_S = 30  # that a connection is kept without one


def serve(
    model: str, settings: RunSettings, serving: ServeSettings, key: str | None, ready: Callable[[str], None]
) -> None:
    """Serve until SIGTERM or Ctrl-C; replies in the making get ``serving.drain_s`` seconds then.

    key: that clients have to send; None = nobody has to; ready: gets the address, once requests are taken

    Raises:
        BadInput: others would reach it without a key, or the address is none. EnvironmentFault: the port is taken.
    """
    hosts = _hosts(serving.host, key)
    listening = _listen(serving.host, serving.port)
    mailbox = Mailbox()
    with listening, ExitStack() as stack:
        models = open_models(stack, model, settings, mailbox, serving)
        app = guarded_app(models, mailbox, serving, key, hosts)
        host, port = listening.getsockname()[:2]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"

        async def answering() -> None:
            mailbox.open(asyncio.get_running_loop())
            server = http_server(app, serving, lambda: ready(address))
            await _until_told(server, listening, list(models.values()))

        asyncio.run(answering())
    if fault := next((engine.fault for engine in _engines(models.values()) if engine.fault), ""):
        raise EnvironmentFault("the engine has stopped", got=fault)


def _engines(models: Iterable[LiveModel]) -> list[LiveEngine]:
    return [engine for live in models for engine in live.engines]


def open_models(
    stack: ExitStack, model: str, settings: RunSettings, mailbox: Mailbox, serving: ServeSettings
) -> dict[str, LiveModel]:
    """The model, and its original where that is to be asked beside it, by the names that clients use."""
    places = Places(serving.users, serving.queue, serving.context)
    live = stack.enter_context(open_live(model, settings, mailbox.hand_over, places))
    name = serving.name or live.name
    if serving.beside is None:
        return {name: live}
    beside = stack.enter_context(open_live(serving.beside, settings, mailbox.hand_over, places, live))
    other = beside.name if beside.name != name else "original"
    if other == name:
        raise BadInput(f"both models would be called {name}", hint="type another --name")
    return {name: live, other: beside}


def guarded_app(
    models: Mapping[str, LiveModel],
    mailbox: Mailbox,
    serving: ServeSettings,
    key: str | None,
    hosts: frozenset[str] | None,
) -> Guard:
    """The routes, with their guard in front."""
    metrics = Metrics(list(models.values()))
    app = make_app(Desk(models, mailbox, metrics, serving))
    return Guard(app, key, hosts, serving.max_body_bytes, serving.max_head_bytes, metrics.ended)


async def _until_told(server: uvicorn.Server, listening: socket.socket, models: Sequence[LiveModel]) -> None:
    def end() -> None:
        server.force_exit = server.should_exit  # told twice: at once
        server.should_exit = True
        for engine in _engines(models):
            engine.drain()

    async def watch() -> None:
        while not any(engine.fault for engine in _engines(models)):
            await asyncio.sleep(_LOOK_S)
        end()

    watching = asyncio.create_task(watch())
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, end)
    await server.serve(sockets=[listening])
    watching.cancel()


def http_server(app: Guard, serving: ServeSettings, ready: Callable[[], None] = lambda: None) -> uvicorn.Server:
    """It is told to end by its ``should_exit``. ready: is called once connections are taken"""
    config = uvicorn.Config(
        app,
        http=_ImpatientProtocol,
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        h11_max_incomplete_event_size=serving.max_head_bytes,
        timeout_keep_alive=_KEEP_S,
        limit_concurrency=serving.users + serving.queue + _BESIDE,
        timeout_graceful_shutdown=max(1, round(serving.drain_s)),
    )
    return _Server(config, ready)


class _Server(uvicorn.Server):
    """Leaves the signals to us: it would raise them again in the end, and nothing would be tidied up."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Says when it is done."""
        await super().startup(sockets)
        self._ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """None."""
        yield


class _ImpatientProtocol(H11Protocol):
    """Hangs up on who does not come to the end of a request's head; the rest of its time is limited elsewhere."""

    _hanging_up: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The time begins."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """It begins anew with each request, and ends with its head."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """No need any more."""
        super().connection_lost(exc)
        self._calm()

    def timeout_keep_alive_handler(self) -> None:
        """Nobody asked for long."""
        super().timeout_keep_alive_handler()
        self._hang_up()

    def shutdown(self) -> None:
        """The server ends."""
        super().shutdown()
        if self.transport.is_closing():
            self._hang_up()

    def pause_writing(self) -> None:
        """Nor does it wait for ever for who reads no more."""
        super().pause_writing()
        self._stalled = self.loop.call_later(_STALL_S, self.transport.abort)

    def resume_writing(self) -> None:
        """They read on."""
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()

    def _hang_up(self) -> None:
        """A connection is closed when all is read that was written, which some never do."""
        self.transport.close()
        self.loop.call_later(_STALL_S, self.transport.abort)

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._calm()
        elif self._hanging_up is None:
            self._hanging_up = self.loop.call_later(_HEAD_S, self._hang_up)

    def _calm(self) -> None:
        if self._hanging_up is not None:
            self._hanging_up.cancel()
            self._hanging_up = None


def _hosts(host: str, key: str | None) -> frozenset[str] | None:
    """Names by which it may be asked for; None = any, since a key is asked for too."""
    try:
        names = local_names(host)
    except ValueError:
        raise BadInput("--host is an address of this machine", got=host, hint="type --host 127.0.0.1") from None
    if names is None and key is None:
        how = "put a key into the environment variable HALFWATT_API_KEY, or type --host 127.0.0.1"
        raise BadInput("other machines would reach the server without a key", got=host, hint=how)
    return names if key is None else None


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
    except (OSError, OverflowError) as error:
        listening.close()
        raise EnvironmentFault(
            f"cannot listen on {host}, port {port}", got=str(error), hint="type another --port"
        ) from None
    return listening
