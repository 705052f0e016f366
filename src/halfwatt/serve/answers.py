"""From a request to the pieces of its reply: what waits in the web server for what the engine hands over."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from halfwatt.api.live import Asked, LiveModel, Step, TextStream, energy_of
from halfwatt.core.errors import EnvironmentFault


class Broken(EnvironmentFault):
    """The engine could not make the reply."""


class Mailbox:
    """Brings what the engine hands over, in its thread, to those who wait, in the event loop's."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._boxes: dict[Asked, asyncio.Queue[Step]] = {}

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Before anything is asked."""
        self._loop = loop

    def hand_over(self, steps: Sequence[Step]) -> None:
        """For the engine."""
        assert self._loop is not None
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._deliver, steps)

    def box(self, asked: Asked) -> asyncio.Queue[Step]:
        """Of one who asks."""
        box = self._boxes[asked] = asyncio.Queue[Step]()
        return box

    def close(self, asked: Asked) -> None:
        """Whatever still comes is nobody's."""
        self._boxes.pop(asked, None)

    def _deliver(self, steps: Sequence[Step]) -> None:
        for step in steps:
            if (box := self._boxes.get(step.asked)) is not None:
                box.put_nowait(step)


@dataclass(slots=True)
class Answer:
    """A reply while it comes. name: of the model; stops: texts that end it; they are not part of it."""

    name: str
    model: LiveModel
    mailbox: Mailbox
    asked: Asked
    stops: tuple[str, ...]
    began_s: float = field(default_factory=time.monotonic)
    tokens: int = 0
    reason: str = ""

    async def pieces(self) -> AsyncGenerator[str]:
        """Its text; whoever stops listening ends it.

        Raises:
            Full, Draining: it is not taken. Broken: it could not be made.
        """
        text, held = TextStream(self.model.tokenizer), Stops(self.stops)
        box = self.mailbox.box(self.asked)
        try:
            self.model.engine.submit(self.asked)
            while not self.reason:
                step = await box.get()
                self.tokens += len(step.ids)
                piece = text.push(step.ids) + (text.rest() if step.ended else "")
                said, stopped = held.let_through(piece, step.ended is not None)
                if said:
                    yield said
                if stopped and step.ended is None:
                    self.asked.given_up = True
                    await _last(box)  # what it took is known then
                elif step.ended in ("failed", "given up"):
                    raise Broken(step.fault or "the server ended before the reply did")
                self.reason = "stop" if stopped else step.ended or ""
        finally:
            self.asked.given_up = True
            self.mailbox.close(self.asked)

    @property
    def first_s(self) -> float | None:
        """Seconds to its first token."""
        return None if self.asked.first_s is None else self.asked.first_s - self.began_s

    @property
    def usage(self) -> dict[str, Any]:
        """What it took, as clients read it."""
        read, turn = len(self.asked.prompt), self.asked.turn
        answered_by = {"answered_by": self.model.role} if self.model.role else {}
        return answered_by | {
            "prompt_tokens": read,
            "completion_tokens": self.tokens,
            "total_tokens": read + self.tokens,
            "prompt_tokens_details": {"cached_tokens": 0 if turn is None else turn.cached},
            "energy": energy_of(self.asked.spent, self.model.meter, self.began_s),
        }


def as_neuralwatt(energy: dict[str, Any]) -> dict[str, Any]:
    """The energy of a usage once more, beside it, under the names that clients of Neuralwatt's service read; nothing
    where there are no joules."""
    if "joules" not in energy:
        return {}
    joules, seconds = energy["joules"], energy["seconds"]
    figures = {
        "energy_joules": joules,
        "energy_kwh": joules / 3.6e6,
        "avg_power_watts": joules / seconds if seconds > 0 else None,
        "duration_seconds": seconds,
        "attribution_method": f"{energy['kind']}, grade {energy['grade']}: equal parts of every pass",
    }
    return {"energy": figures}


async def _last(box: asyncio.Queue[Step]) -> None:
    while (await box.get()).ended is None:
        pass


class Stops:
    """Holds back what may be the beginning of a text that ends the reply.

    >>> stops = Stops(("END",))
    >>> [stops.let_through(piece, False) for piece in ("so E", "N", "o EN", "D more")]
    [('so ', False), ('', False), ('ENo ', False), ('', True)]
    >>> Stops(("END",)).let_through("EN", True)
    ('EN', False)
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts, self._held = tuple(texts), ""

    def let_through(self, piece: str, last: bool) -> tuple[str, bool]:
        """What is certain now, and whether one of the texts has come."""
        text = self._held + piece
        ends = [at for stop in self._texts if (at := text.find(stop)) >= 0]
        if ends:
            return text[: min(ends)], True
        keep = 0 if last else max((_overlap(text, stop) for stop in self._texts), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], False


def _overlap(text: str, stop: str) -> int:
    """How many of the last characters may begin ``stop``."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if stop.startswith(text[-n:])), 0)
