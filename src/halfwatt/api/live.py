"""A model that answers whoever asks, many at once, and says what each reply took: what a server stands on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from halfwatt import demo
from halfwatt.api.inputs import workplace
from halfwatt.core.settings import RunSettings
from halfwatt.dialogues.dialogue import Dialogue
from halfwatt.evaluate.requests import ChatFormat
from halfwatt.meters.base import MeterInfo
from halfwatt.meters.shares import Shares, Spent
from halfwatt.models.sampling import Sampling
from halfwatt.models.tokenizer import ChatTokenizer
from halfwatt.runtimes.cascade import Cascade, Cascading, Router
from halfwatt.runtimes.live_engine import Asked, Draining, Full, LiveEngine, Step
from halfwatt.runtimes.llamacpp_batched import BatchedSession
from halfwatt.runtimes.serving_process import ServingSpec, open_session
from halfwatt.runtimes.text_stream import TextStream
from halfwatt.search.served import served

__all__ = [
    "Asked",
    "Draining",
    "Full",
    "LiveEngine",
    "LiveModel",
    "Places",
    "Step",
    "TextStream",
    "energy_of",
    "open_live",
]

_CACHE_B = 1 << 30  # of keys and values that all conversations together may take, where nobody says how long they get
_LEAST, _MOST = 1024, 8192  # tokens of a conversation then


@dataclass(frozen=True, slots=True)
class LiveModel:
    """What answers. own: its own way of choosing tokens; context: tokens of a conversation with its reply."""

    name: str
    tokenizer: ChatTokenizer
    own: Sampling
    context: int
    longest_token: int  # in characters
    engine: LiveEngine
    shares: Shares
    role: str = ""  # of the two in a cascade: student, original
    behind: LiveModel | None = None  # of a cascade's student, its original
    router: Router | None = None  # which of them answers

    def answering(self, dialogue: Dialogue | None) -> LiveModel:
        """Who answers it, of a cascade; None = a text that is no dialogue, which no student was taught."""
        if self.behind is None or self.router is None:
            return self
        return self.behind if dialogue is None or self.router.asks_original(dialogue) else self

    @property
    def speakers(self) -> tuple[LiveModel, ...]:
        """Itself, and the original behind it."""
        return (self,) if self.behind is None else (self, self.behind)

    @property
    def engines(self) -> tuple[LiveEngine, ...]:
        """Of all of them."""
        return tuple(speaker.engine for speaker in self.speakers)

    @property
    def room(self) -> int:
        """Tokens of the longest conversation that one of them takes."""
        return max(speaker.context for speaker in self.speakers)

    @property
    def longest_word(self) -> int:
        """Characters of the longest token that one of them reads."""
        return max(speaker.longest_token for speaker in self.speakers)

    @property
    def meter(self) -> MeterInfo | None:
        """None = nothing says what joules it takes."""
        return self.shares.tools.info


@dataclass(frozen=True, slots=True)
class Places:
    """How many may come. context: tokens of each conversation; None = as many as the model was made for and some memory
    holds."""

    users: int  # who are answered at once
    waiting: int  # prompts, beside them
    context: int | None = None


@contextmanager
def open_live(
    model: str,
    settings: RunSettings,
    hand_over: Callable[[Sequence[Step]], None],
    places: Places,
    beside: LiveModel | None = None,
) -> Iterator[LiveModel]:
    """Load a model or an artifact, proved, and let it answer while the block runs.

    hand_over: gets what each pass brought, in another thread; beside: whose original it is; they take turns

    Raises:
        ModelError: it cannot be used. ExportDiffers: in llama.cpp it is another model. EnvironmentFault: no memory.
    """
    with workplace(settings) as (settings, cache, tools), ExitStack() as stack:
        spec = served(model, settings, cache, "llamacpp", demo.dialogues("tune").dialogues)
        name = Path(model).resolve().name if Path(model).exists() else model
        shares = Shares(tools) if beside is None else beside.shares

        def opened(member: ServingSpec) -> LiveModel:
            return stack.enter_context(_open(name, member, hand_over, places, shares))

        if spec.artifact.runtime != Cascading.name:
            yield opened(spec)
            return
        cascade, own = Cascade.read(spec.artifact), ChatFormat.of_artifact(spec.artifact).generation
        student, original = (
            replace(opened(ServingSpec(member.artifact, member.at, spec.access)), role=role, own=own)
            for member, role in ((cascade.student, "student"), (cascade.original, "original"))
        )
        yield replace(student, behind=original, router=cascade.router)


@contextmanager
def _open(
    name: str, spec: ServingSpec, hand_over: Callable[[Sequence[Step]], None], places: Places, shares: Shares
) -> Iterator[LiveModel]:
    """One model."""
    # Without guesses: those are for one alone.
    at = replace(spec.at, batch=max(2, places.users), speculation=None, reuse_prefix=True)
    form = ChatFormat.of_artifact(spec.artifact)
    with open_session(replace(spec, at=at)) as session:
        assert isinstance(session, BatchedSession)
        tokens = places.context or fitting(spec.artifact.kv_b_per_token * at.batch)
        session.in_thread(lambda: session.reserve(tokens))
        shares.add(session.bytes_moved)
        engine = LiveEngine(session, shares, hand_over, users=places.users, waiting=places.waiting)
        longest = max(map(len, form.tokenizer.hf.get_vocab()))
        with closing(engine):
            yield LiveModel(name, form.tokenizer, form.generation, session.room, longest, engine, shares)


def fitting(kv_b_per_token: float) -> int:
    """Tokens of a conversation, where all at once take so many bytes a token.

    >>> fitting(16 * 23_040), fitting(16 * 100), fitting(1e9)
    (2912, 8192, 1024)
    """
    return max(_LEAST, min(_MOST, int(_CACHE_B // max(1.0, kv_b_per_token))))


def energy_of(spent: Spent, meter: MeterInfo | None, since_s: float) -> dict[str, Any]:
    """What a reply took, in figures; joules only where they were measured or modelled. since_s: when it was asked."""
    figures = {"cpu_seconds": spent.cpu_s, "seconds": time.monotonic() - since_s}
    if meter is None or spent.joules is None:
        return {"grade": "F"} | figures
    whence = {"kind": meter.kind, "grade": meter.grade, "method": meter.name, "covers": meter.covers}
    return {"joules": spent.joules} | whence | figures
