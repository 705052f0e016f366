"""What the toolkits' modules have in common. Runs in their environments, so it imports nothing they need not have.

python -m benchmarks.peers.TOOLKIT make KIND MODEL TEXTS TO     convert; the last line says what came out, as JSON;
                                                                an empty TEXTS = the quick way, for random weights
python -m benchmarks.peers.TOOLKIT serve                        a worker (halfwatt.runtimes.serving_process)
"""

from __future__ import annotations

import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from halfwatt.core.machine import cores
from halfwatt.dialogues.dialogue import Dialogue
from halfwatt.models.sampling import Sampling
from halfwatt.models.tokenizer import ChatTokenizer
from halfwatt.runtimes import serving_process
from halfwatt.runtimes.base import Reply, one_by_one
from halfwatt.runtimes.serving_process import ServingSpec

FILES = "toolkit"  # the folder, beside the tokenizer's files, that holds what the toolkit wrote


@dataclass(frozen=True, slots=True)
class Order:
    """What to make: a ``kind`` of ``model`` in the folder ``to``, with the rendered dialogues in the lines of ``texts``
    to calibrate on. Without any, what is made need not be good, only take as much."""

    kind: str
    model: Path
    texts: Path
    to: Path

    def dialogues(self, most: int) -> list[str]:
        """Rendered, the first ``most``."""
        return [json.loads(line) for line in self.texts.read_text(encoding="utf-8").splitlines()[:most]]


@dataclass(frozen=True, slots=True)
class Description:
    """What was made."""

    version: str  # of the toolkit
    size_b: int
    weights_read_b: int  # by one decode step


def group_size(model: Path) -> int:
    """128, which toolkits document, or 64 for a model whose widths it does not divide: else they leave matrices as they
    are, or cannot serve what they made."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    return 64 if config["hidden_size"] % 128 or config["intermediate_size"] % 128 else 128


class PeerSession(ABC):
    """A `halfwatt.runtimes.base.Session`; how tokens are made is the toolkit's."""

    def __init__(self, spec: ServingSpec) -> None:
        self.artifact, self.at = spec.artifact, spec.at
        self.tokenizer = ChatTokenizer.load(spec.artifact.path)
        self.stops = frozenset(self.tokenizer.eos_ids)
        self.threads = spec.at.threads or cores()
        self.files = spec.artifact.path / FILES
        assert spec.artifact.context is not None, "every export tells it"
        self.longest = spec.artifact.context
        self._bytes = 0

    @abstractmethod
    def generate_ids(self, prompt: list[int], sampling: Sampling, most: int) -> tuple[list[int], int]:
        """(at most so many new ids, a stop token included, tokens of the prompt that were in the cache)."""

    @abstractmethod
    def all_logits(self, ids: list[int]) -> NDArray[np.float32]:
        """Logits after each token, [tokens, vocabulary]."""

    def reply(self, batch: Sequence[Dialogue], sampling: Sampling) -> list[Reply]:
        """Answer each dialogue, one after the other."""
        return [self._answer(dialogue, sampling) for dialogue in batch]

    def replies(self, prompts: Sequence[Dialogue], samplings: Sequence[Sampling]) -> list[Reply]:
        """Each with its own sampling, one after the other."""
        return one_by_one(self, prompts, samplings)

    def stream(self, dialogue: Dialogue, sampling: Sampling) -> Generator[str, None, Reply]:
        """The reply in one piece."""
        answer = self._answer(dialogue, sampling)
        yield answer.text
        return answer

    def logits(self, dialogue: Dialogue, rows: Sequence[int] | None = None) -> NDArray[np.float32]:
        """Row i predicts token i+1 of the rendered dialogue."""
        logits = self.all_logits(self.tokenizer.encode(self.tokenizer.render(dialogue, prompt=False)))
        return logits if rows is None else logits[list(rows)]

    def continuations(self, dialogue: Dialogue, texts: Sequence[str], longest: int) -> list[float]:
        """The gate's judge is the original in llama.cpp."""
        raise NotImplementedError

    @abstractmethod
    def reset(self) -> None:
        """Forget what was asked before."""

    def sync(self) -> None:  # noqa: B027 - the CPU is never behind
        """Wait until the device is idle."""

    def bytes_moved(self) -> int:
        """Weights once a pass, and the KV cache up to the token of that pass, at 16 bits."""
        return self._bytes

    def _answer(self, dialogue: Dialogue, sampling: Sampling) -> Reply:
        prompt = self.tokenizer.prompt_ids(dialogue)
        ids, cached = self.generate_ids(prompt, sampling, min(sampling.max_new_tokens, self.longest - len(prompt)))
        passes, kv = len(ids), self.artifact.kv_b_per_token
        self._bytes += passes * self.artifact.weights_read_b + kv * sum(range(len(prompt), len(prompt) + passes))
        return Reply(self.tokenizer.decode(ids), tuple(ids), len(prompt), cached, bool(ids) and ids[-1] in self.stops)


def main(make: Callable[[Order], Description], session: Callable[[ServingSpec], PeerSession]) -> None:
    """The toolkit's program."""
    verb, *arguments = sys.argv[1:]
    if verb == "serve":
        serving_process.main(lambda spec: nullcontext(session(spec)))
    else:
        kind, *paths = arguments
        print(json.dumps(asdict(make(Order(kind, *map(Path, paths))))))
