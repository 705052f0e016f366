"""A conversation in the terminal, with what each reply used."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

from halfwatt import demo
from halfwatt.api.inputs import workplace
from halfwatt.core.settings import RunSettings, RuntimeChoice
from halfwatt.dialogues.dialogue import Dialogue, Message
from halfwatt.evaluate.requests import ChatFormat
from halfwatt.meters.base import MeterInfo, Usage
from halfwatt.meters.discover import Instruments
from halfwatt.runtimes.base import Reply, Session
from halfwatt.runtimes.serving_process import open_session
from halfwatt.search.served import served


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
        energy = "energy not measured"
        if self.joules is not None and (m := self.meter) is not None:
            unit, scope = ("modelled J", "only for comparing") if m.kind == "modelled" else ("J", m.domain)
            energy = f"{self.joules:.3g} {unit}, grade {m.grade}: {scope}"
        tokens = f"{self.tokens} tokens ({self.tokens_in} in, {self.tokens_cached} cached)"
        return f"{energy} · {self.cpu_s * 1000:.0f} CPU-ms · {tokens} · {self.seconds:.2f} s"

    @property
    def figures(self) -> dict[str, Any]:
        """The same for programs."""
        name, grade, kind = (None, "F", None) if (m := self.meter) is None else (m.name, m.grade, m.kind)
        return {f.name: getattr(self, f.name) for f in fields(self)} | {"meter": name, "grade": grade, "kind": kind}


def converse(
    model: str, lines: Iterator[str], emit: Callable[[Any], None], runtime: RuntimeChoice, settings: RunSettings
) -> None:
    """Answer each line; ``emit`` gets the pieces of text, then a dict with the figures of the reply."""
    with workplace(settings) as (settings, cache, tools):
        spec = served(model, settings, cache, runtime, demo.dialogues("tune").dialogues)
        generation = ChatFormat.of_artifact(spec.artifact).generation
        messages: list[Message] = []
        with open_session(replace(spec, at=replace(spec.at, batch=1))) as session:  # one person talks to it
            for line in lines:
                messages.append(Message("user", line))
                stream = session.stream(Dialogue("chat", tuple(messages)), generation)
                reply, cost = _metered(stream, session, tools, emit)
                messages.append(Message("assistant", reply.text))
                emit({"reply": reply.text, **cost.figures, "line": cost.line})


def _metered(
    stream: Generator[str, None, Reply], session: Session, tools: Instruments, emit: Callable[[Any], None]
) -> tuple[Reply, ReplyCost]:
    """One reply between two looks at the meter. The terminal's own work is inside, unlike in `measure`."""
    before, counted_j = _usage(session), None if tools.primary is None else tools.primary.read().joules
    while True:
        try:
            emit(next(stream))
        except StopIteration as end:
            reply: Reply = end.value
            break
    session.sync()
    use = _usage(session) - before
    tokens = (len(reply.token_ids), reply.tokens_in, reply.tokens_cached)
    return reply, ReplyCost(_joules(tools, counted_j, use), tools.info, use.cpu_s, use.wall_s, *tokens)


def _joules(tools: Instruments, counted_j: float | None, use: Usage) -> float | None:
    """By the counter since it showed ``counted_j``, else by the model of ``use``; None without either."""
    if tools.primary is not None and counted_j is not None:
        return tools.primary.read().joules - counted_j
    return tools.modelled_joules(use)


def _usage(session: Session) -> Usage:
    return Usage(time.process_time(), time.monotonic(), session.bytes_moved())
