"""What a runtime is: it exports a model once, then serves it in sessions."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

from halfwatt.dialogue import Dialogue
from halfwatt.records import Artifact, OperatingPoint, Reply, Sampling

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from halfwatt.chat_model import ChatModel


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
