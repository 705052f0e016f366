"""What a runtime is: it serves an artifact in sessions."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from halfwatt.core.errors import BadInput
from halfwatt.core.files import write_atomic
from halfwatt.core.json_records import read_own, to_json
from halfwatt.core.settings import RuntimeName
from halfwatt.dialogues.dialogue import Dialogue
from halfwatt.formats.artifact import Artifact
from halfwatt.models.sampling import Sampling

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

OPERATING_POINT = "operating_point.json"


@dataclass(frozen=True, slots=True)
class Speculation:
    """Tokens guessed ahead, which the model checks in one pass; what it says stays what it would have said."""

    kind: Literal["table", "lookup"]  # an n-gram table made by the step `draft`, or what stood in the dialogue before
    longest: int = 4  # tokens of a draft
    least: float = 0.5  # table: probability that a whole draft is right


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """How a runtime serves the artifact; as much a part of the recipe as the bits are."""

    threads: int | None = None  # decode threads; None = the runtime's own default (B0)
    threads_prefill: int | None = None
    batch: int = 1
    kv_bits: Literal[16, 8, 4] = 16
    reuse_prefix: bool = True  # keep the KV cache of the turns before
    speculation: Speculation | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply as the runtime gave it. ``tokens_cached`` of the ``tokens_in`` came from the KV cache."""

    text: str
    token_ids: tuple[int, ...]  # the stop token is included when it was produced
    tokens_in: int
    tokens_cached: int
    stopped: bool  # True: a stop token ended it; False: the cap did


class Session(Protocol):
    """A loaded artifact that answers. The last prompt's KV cache is kept for the next when ``reuse_prefix`` is on."""

    def reply(self, batch: Sequence[Dialogue], sampling: Sampling) -> list[Reply]:
        """Answer each dialogue, whose last message is the user's."""

    def replies(self, prompts: Sequence[Dialogue], samplings: Sequence[Sampling]) -> list[Reply]:
        """Answer each with its own sampling, where only the texts are wanted: together where that is cheaper."""

    def stream(self, dialogue: Dialogue, sampling: Sampling) -> Generator[str, None, Reply]:
        """Answer one dialogue piece by piece; the generator's return value is the whole `Reply`."""

    def logits(self, dialogue: Dialogue, rows: Sequence[int] | None = None) -> NDArray[np.float32]:
        """``[tokens, vocabulary]``: row i predicts token i+1 of the rendered dialogue (no generation prompt).

        rows: those that are wanted, ascending, the head being most of a small model's work; None = all
        """

    def continuations(self, dialogue: Dialogue, texts: Sequence[str], longest: int) -> list[float]:
        """Summed log p, in nats, of the first ``longest`` tokens of each text as the reply to ``dialogue``.

        Raises:
            BadInput: prompt and text do not fit the model's context.
        """

    def reset(self) -> None:
        """Forget the cached prefix, so that the next reply does not depend on what was asked before."""

    def sync(self) -> None:
        """Wait until the device is idle."""

    def bytes_moved(self) -> int:
        """Bytes of weights and KV cache that all replies so far had to read, computed from the format."""


class Runtime(Protocol):
    """A library that serves artifacts of one format."""

    name: ClassVar[RuntimeName]

    def open(self, artifact: Artifact, at: OperatingPoint) -> AbstractContextManager[Session]:
        """Load the artifact.

        Raises:
            ModelError: it is missing, or was changed since it was written. EnvironmentFault: there is no such device.
            BadInput: the operating point asks for something this runtime does not do.
        """


def require_room(tokens: int, context: int, reply: int = 1) -> None:
    """A dialogue of so many tokens and the least reply must fit.

    Raises:
        BadInput: they do not.
    """
    if tokens + reply > context:
        room = f"a context of {context}"
        raise BadInput(f"a dialogue of {tokens} tokens does not fit", got=room, hint="shorten the dialogue")


def one_by_one(session: Session, prompts: Sequence[Dialogue], samplings: Sequence[Sampling]) -> list[Reply]:
    """`Session.replies` of a runtime that answers several no cheaper."""
    return [session.reply([prompt], sampling)[0] for prompt, sampling in zip(prompts, samplings, strict=True)]


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many leading ids are the same."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def read_operating_point(folder: Path) -> OperatingPoint:
    """The operating point stored beside the artifact; the runtime's defaults when there is none.

    Raises:
        ModelError: it is damaged.
    """
    path = folder / OPERATING_POINT
    return read_own(path, OperatingPoint) if path.exists() else OperatingPoint()


def write_operating_point(folder: Path, at: OperatingPoint) -> None:
    """Store ``at`` beside the artifact, for `chat`, `measure` and `compare`."""
    write_atomic(folder / OPERATING_POINT, to_json(at).encode())
