"""What a runtime is: it exports a model once, then serves it in sessions."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from halfwatt.dialogues.dialogue import Dialogue
from halfwatt.formats.artifact import Artifact
from halfwatt.models.sampling import Sampling

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from halfwatt.models.chat_model import ChatModel


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
        ...

    def stream(self, dialogue: Dialogue, sampling: Sampling) -> Generator[str, None, Reply]:
        """Answer one dialogue piece by piece; the generator's return value is the whole `Reply`."""
        ...

    def logits(self, dialogue: Dialogue) -> NDArray[np.float32]:
        """``[tokens, vocabulary]``: row i predicts token i+1 of the rendered dialogue (no generation prompt)."""
        ...

    def reset(self) -> None:
        """Forget the cached prefix, so that the next reply does not depend on what was asked before."""
        ...

    def sync(self) -> None:
        """Wait until the device is idle."""
        ...

    def bytes_moved(self) -> int:
        """Bytes of weights and KV cache that all replies so far had to read, computed from the format."""
        ...


class Runtime(Protocol):
    name: ClassVar[str]

    def export(self, model: ChatModel, to: Path) -> Artifact:
        """Write ``model`` into the folder ``to`` (which must not exist) in this runtime's form."""
        ...

    def open(self, artifact: Artifact, at: OperatingPoint) -> AbstractContextManager[Session]: ...


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many leading ids are the same."""
    for count, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return count
    return min(len(a), len(b))
