"""The routes of the OpenAI protocol, and /health and /metrics."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, StreamingResponse
from starlette.exceptions import HTTPException

from halfwatt.api.live import Asked, Draining, Full, LiveModel
from halfwatt.core.errors import BadInput, EnvironmentFault, HalfwattError
from halfwatt.serve.answers import Answer, Mailbox, as_neuralwatt
from halfwatt.serve.metrics import Metrics
from halfwatt.serve.protocol import ChatRequest, CompletionRequest, Shape, fault
from halfwatt.serve.settings import ServeSettings

T = TypeVar("T")
_RETRY_S = 2
_PAGE = Path(__file__).parent / "page"
_PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}
_MUCH = 4000  # characters, which are read in a millisecond
_LONGEST_FAULT = 300  # characters: what was sent is not sent back


@dataclass(frozen=True, slots=True)
class Desk:
    """What the routes share."""

    models: Mapping[str, LiveModel]  # by the name that clients use, the one that answers by default first
    mailbox: Mailbox
    metrics: Metrics
    settings: ServeSettings

    def model(self, name: str | None) -> tuple[str, LiveModel]:
        """Raises NoSuchModel: there is none of that name."""
        known = name or next(iter(self.models))
        if known not in self.models:
            raise NoSuchModel(f"there is no model {known[:100]!r}", hint=f"ask for {' or '.join(self.models)}")
        return known, self.models[known]

    async def answer(self, request: ChatRequest | CompletionRequest) -> Answer:
        """Raises BadInput, ModelError: it cannot be answered. Full: nor could it wait."""
        name, model = self.model(request.model)
        if all(engine.is_full for engine in model.engines):
            raise Full("as many replies are being made or waited for as may")
        if request.characters > model.room * model.longest_word:
            raise TooLong(f"{request.characters} characters", got=f"a context of {model.room} tokens")

        def read() -> tuple[LiveModel, list[int]]:
            speaker = model.answering(request.dialogue)
            return speaker, request.prompt_ids(speaker.tokenizer)

        much = request.characters > _MUCH  # to read it would keep all others waiting
        speaker, prompt = await asyncio.to_thread(read) if much else read()
        if len(prompt) >= speaker.context:
            room = f"{speaker.context} for prompt and reply"
            raise TooLong(f"the prompt has {len(prompt)} tokens", got=room, hint="shorten the conversation")
        sampling = request.sampling(speaker.own, self.settings.max_reply_tokens)
        asked = Asked(prompt, sampling, request.stream or bool(request.stops))
        return Answer(name, speaker, self.mailbox, asked, request.stops)


class NoSuchModel(BadInput):
    """Another one is served."""


class TooLong(BadInput):
    """The conversation leaves no room for a reply."""


def make_app(desk: Desk) -> FastAPI:
    """The application; `Guard` stands in front of it."""
    app = FastAPI(title="halfwatt", docs_url=None, redoc_url=None, openapi_url=None)

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        return await _complete(desk, request, chat=True)

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        return await _complete(desk, request, chat=False)

    @app.get("/v1/models")
    async def models() -> Response:
        roles = ("optimized", "original") if len(desk.models) > 1 else ("model",)
        entries = [
            {"id": name, "object": "model", "created": 0, "owned_by": "halfwatt"}
            | {"halfwatt": {"role": role, "context": model.room}}
            for role, (name, model) in zip(roles, desk.models.items(), strict=True)
        ]
        return _json({"object": "list", "data": entries})

    @app.get("/health")
    async def health() -> Response:
        engines = [engine for model in desk.models.values() for engine in model.engines]
        failed, draining = any(engine.fault for engine in engines), any(engine.draining for engine in engines)
        status = "failed" if failed else "draining" if draining else "ok"
        return _json({"status": status}, 200 if status == "ok" else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(desk.metrics.text, media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/")
    async def page() -> Response:
        return FileResponse(_PAGE / "index.html", headers=_PAGE_HEADERS)

    for name in ("page.css", "page.js", "words.js"):
        app.get(f"/page/{name}")(partial(_file, _PAGE / name))

    @app.exception_handler(HTTPException)
    async def no_route(_: Request, error: HTTPException) -> Response:
        return _json(fault(str(error.detail), "invalid_request_error"), error.status_code)

    return app


async def _file(path: Path) -> Response:
    return FileResponse(path, headers=_PAGE_HEADERS)


async def _complete(desk: Desk, request: Request, *, chat: bool) -> Response:
    try:
        async with asyncio.timeout(desk.settings.timeout_s):
            asked = await _read(request, chat=chat)
            answer = await desk.answer(asked)
            pieces, shape = answer.pieces(), Shape.of(chat, answer.name)
            if asked.stream:
                first = await _unless_gone(request, anext(pieces, None))
                chunks = _chunks(desk, answer, shape, pieces, first, account=asked.wants_usage)
                return StreamingResponse(chunks, media_type="text/event-stream", headers={"cache-control": "no-store"})
            async with aclosing(pieces):
                text = await _unless_gone(request, _whole(pieces))
    except HalfwattError as error:
        return _refusal(error)
    except TimeoutError:
        return _json(fault(_late(desk), "server_error", "timeout"), 504)
    except _Gone:
        return Response(status_code=499)
    _note(desk, answer)
    usage = answer.usage
    return _json(shape.whole(text, answer.reason, usage, as_neuralwatt(usage["energy"])))


async def _read(request: Request, *, chat: bool) -> ChatRequest | CompletionRequest:
    """Raises BadInput: it is no such request."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise BadInput("the body has to be JSON", hint="send Content-Type: application/json")
    body = await request.body()
    return ChatRequest.read(body) if chat else CompletionRequest.read(body)


async def _whole(pieces: AsyncIterator[str]) -> str:
    return "".join([piece async for piece in pieces])


async def _chunks(
    desk: Desk, answer: Answer, shape: Shape, pieces: AsyncGenerator[str], first: str | None, *, account: bool
) -> AsyncIterator[bytes]:
    """The reply as server-sent events."""
    try:
        if (opening := shape.opening()) is not None:
            yield _event(opening)
        if first:
            yield _event(shape.piece(first))
        async with aclosing(pieces):
            while (piece := await _in_time(pieces, answer.began_s + desk.settings.timeout_s)) is not None:
                yield _event(shape.piece(piece))
        yield _event(shape.ending(answer.reason))
        usage = answer.usage
        more = as_neuralwatt(usage["energy"])
        if account:
            yield _event(shape.account(usage, more))
        if more:
            yield b": energy " + json.dumps(more["energy"]).encode() + b"\n\n"
        yield b"data: [DONE]\n\n"
        _note(desk, answer)
    except TimeoutError:
        desk.metrics.broke()
        yield _event(fault(_late(desk), "server_error", "timeout"))
    except HalfwattError as error:
        desk.metrics.broke()
        yield _event(fault(str(error), "server_error"))
    finally:
        answer.asked.given_up = True


class _Gone(Exception):
    """Nobody waits for the reply any more."""


async def _unless_gone(request: Request, work: Awaitable[T]) -> T:
    """What ``work`` brings; given up where the client hangs up before.

    Raises:
        _Gone: it did.
    """
    waiting, gone = asyncio.ensure_future(work), asyncio.ensure_future(_hung_up(request))
    try:
        await asyncio.wait({waiting, gone}, return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            return waiting.result()
        raise _Gone
    finally:
        for task in (waiting, gone):
            task.cancel()
        await asyncio.wait({waiting, gone})


async def _in_time(pieces: AsyncGenerator[str], until_s: float) -> str | None:
    """The next one; None = there is no more. No time runs while a chunk is being sent: that is the protocol's to limit.

    Raises:
        TimeoutError: it is too late.
    """
    async with asyncio.timeout(until_s - time.monotonic()):
        return await anext(pieces, None)


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _note(desk: Desk, answer: Answer) -> None:
    whole_s = time.monotonic() - answer.began_s
    desk.metrics.replied(answer.name, answer.first_s, whole_s, len(answer.asked.prompt), answer.tokens)


def _refusal(error: HalfwattError) -> Response:
    """What cannot be taken or made, as clients read it."""
    match error:
        case Full() | Draining():
            status, kind, code = 503, "server_error", "overloaded"
        case NoSuchModel():
            status, kind, code = 404, "invalid_request_error", "model_not_found"
        case TooLong():
            status, kind, code = 400, "invalid_request_error", "context_length_exceeded"
        case EnvironmentFault():
            status, kind, code = 500, "server_error", "failed"
        case _:
            status, kind, code = 400, "invalid_request_error", "invalid"
    response = _json(fault(str(error)[:_LONGEST_FAULT], kind, code), status)
    if status == 503:
        response.headers["retry-after"] = str(_RETRY_S)
    return response


def _late(desk: Desk) -> str:
    return f"the reply took longer than {desk.settings.timeout_s:g} s"


def _event(record: dict[str, Any]) -> bytes:
    return b"data: " + _dumped(record) + b"\n\n"


def _json(record: dict[str, Any], status: int = 200) -> Response:
    return Response(_dumped(record), status, media_type="application/json")


def _dumped(record: dict[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8", "replace")
