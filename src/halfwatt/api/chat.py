"""A conversation in the terminal, with what each reply used."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from halfwatt.core.settings import RunSettings, RuntimeChoice
from halfwatt.dialogues.dialogue import Dialogue, Message
from halfwatt.evaluate.instruments import Instruments, instruments
from halfwatt.evaluate.requests import ChatFormat
from halfwatt.meters.base import MeterInfo, Usage
from halfwatt.models.access import serving_device
from halfwatt.runtimes.base import Reply, Session
from halfwatt.runtimes.servable import servable
from halfwatt.runtimes.serving_process import open_session


@dataclass(frozen=True, slots=True)
class ReplyCost:
    """What one reply used. ``joules`` is None when no meter covers it."""

    joules: float | None
    meter: MeterInfo | None
    cpu_s: float
    seconds: float
    tokens: int
    tokens_in: int
    tokens_cached: int

    @property
    def line(self) -> str:
        """One line for people; modelled joules say that they are only for comparing."""
        if self.joules is None or self.meter is None:
            energy = "energy not measured"
        elif self.meter.kind == "modelled":
            energy = f"{self.joules:.3g} modelled J, grade {self.meter.grade}: only for comparing"
        else:
            energy = f"{self.joules:.3g} J, grade {self.meter.grade}: {self.meter.domain}"
        return (
            f"{energy} · {self.cpu_s * 1000:.0f} CPU-ms · {self.tokens} tokens"
            f" ({self.tokens_in} in, {self.tokens_cached} cached) · {self.seconds:.2f} s"
        )


def converse(
    name: str, lines: Iterator[str], emit: Callable[[Any], None], runtime: RuntimeChoice, settings: RunSettings
) -> None:
    """Answer each line; ``emit`` gets the pieces of text, then a dict with the figures of the reply."""
    access = replace(settings.access, device=serving_device(settings.access))
    with (
        TemporaryDirectory(prefix="halfwatt-") as cache,
        closing(instruments(access.device, rapl_root=settings.rapl_root)) as tools,
    ):
        spec = servable(name, access, Path(cache), runtime)
        speech = ChatFormat.of_artifact(spec.artifact)
        messages: list[Message] = []
        with open_session(replace(spec, at=replace(spec.at, batch=1))) as session:  # one person talks to it
            for line in lines:
                messages.append(Message("user", line))
                stream = session.stream(Dialogue("chat", tuple(messages)), speech.generation)
                reply, spent = _metered(stream, session, tools, emit)
                messages.append(Message("assistant", reply.text))
                emit({"reply": reply.text, **_figures(spent), "line": spent.line})


def _metered(
    stream: Generator[str, None, Reply], session: Session, tools: Instruments, emit: Callable[[Any], None]
) -> tuple[Reply, ReplyCost]:
    """One reply between two looks at the meter. The terminal's own work is inside, unlike in `measure`."""
    before, joules, started = _usage(session), _joules(tools, _usage(session)), time.monotonic()
    while True:
        try:
            emit(next(stream))
        except StopIteration as end:
            reply: Reply = end.value
            break
    session.sync()
    after = _usage(session)
    seconds = time.monotonic() - started
    spent = _joules(tools, Usage(after.cpu_s, before.wall_s + seconds, after.bytes_b))
    return reply, ReplyCost(
        joules=None if spent is None or joules is None else spent - joules,
        meter=tools.info,
        cpu_s=after.cpu_s - before.cpu_s,
        seconds=seconds,
        tokens=len(reply.token_ids),
        tokens_in=reply.tokens_in,
        tokens_cached=reply.tokens_cached,
    )


def _usage(session: Session) -> Usage:
    return Usage(time.process_time(), time.monotonic(), session.bytes_moved())


def _joules(tools: Instruments, usage: Usage) -> float | None:
    if tools.primary is not None:
        return tools.primary.read().joules
    if tools.modelled is None or tools.box is None:
        return None
    tools.box.now = usage
    return tools.modelled.read().joules


def _figures(spent: ReplyCost) -> dict[str, Any]:
    return {
        "joules": spent.joules,
        "meter": None if spent.meter is None else spent.meter.name,
        "grade": "F" if spent.meter is None else spent.meter.grade,
        "kind": None if spent.meter is None else spent.meter.kind,
        "cpu_s": spent.cpu_s,
        "seconds": spent.seconds,
        "tokens": spent.tokens,
        "tokens_in": spent.tokens_in,
        "tokens_cached": spent.tokens_cached,
    }
