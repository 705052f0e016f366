"""A student in front of its original, served as one artifact: the student answers what it was taught, the original the
rest.

    a prompt -> how surprising is what the person has said? -> up to the threshold the student answers, beyond it, and
                (`bigram_model`, of what it was taught on)    what is too long for it, the original

    the folder:  artifact.json, cascade.json, words.safetensors, the original's tokenizer and settings
                 student/, original/: an artifact each with its operating point

Token ids of replies are the original's, whoever answered.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from halfwatt.core.errors import BadInput, ModelError
from halfwatt.core.files import link_or_copy, new_folder, sha256_file, write_atomic
from halfwatt.core.json_records import read_own, to_json
from halfwatt.core.settings import RuntimeName
from halfwatt.dialogues.dialogue import Dialogue
from halfwatt.formats.artifact import (
    ARTIFACT,
    CASCADE_FILE,
    DRAFT_FILE,
    GGUF_FILE,
    Artifact,
    Parity,
    read_artifact,
    write_artifact,
)
from halfwatt.models.bigram_model import BigramModel, read_bigrams, surprisal, write_bigrams
from halfwatt.models.sampling import Sampling
from halfwatt.models.tokenizer import ChatTokenizer
from halfwatt.models.vocabulary_map import VocabularyMap
from halfwatt.runtimes.base import (
    OPERATING_POINT,
    OperatingPoint,
    Reply,
    Runtime,
    Session,
    read_operating_point,
    write_operating_point,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WORDS_FILE, STUDENT, ORIGINAL = "words.safetensors", "student", "original"
TOO_LONG = 1e3  # nats a byte, which no text has
_OF_A_PART = (ARTIFACT, GGUF_FILE, DRAFT_FILE, OPERATING_POINT)


@dataclass(frozen=True, slots=True)
class Threshold:
    """Written as ``cascade.json``: the decision, and what it was made for."""

    nats_per_byte: float  # of what the person has said, beyond which the original is asked
    student: str  # sha256 of its weights
    original: str
    words: str  # sha256 of `WORDS_FILE`


@dataclass(frozen=True, slots=True)
class Member:
    """One of the two, and how it is served."""

    artifact: Artifact
    at: OperatingPoint


@dataclass(frozen=True, slots=True)
class Router:
    """Who answers."""

    words: BigramModel
    tokenizer: ChatTokenizer  # the student's
    context: int  # tokens that the student can look back on
    nats_per_byte: float

    def surprisal(self, prompt: Dialogue) -> float:
        """Of what the person has said, in nats a byte; `TOO_LONG` where the student has no room for its reply."""
        return surprisal(self.words, self.tokenizer.encode, prompt) if self._fits(prompt) else TOO_LONG

    def asks_original(self, prompt: Dialogue) -> bool:
        """Is it not for the student?"""
        return self.surprisal(prompt) > self.nats_per_byte

    def _fits(self, prompt: Dialogue) -> bool:
        """Does it leave the student half of its context to answer in? No token is shorter than a byte."""
        most = self.context // 2
        if len(self.tokenizer.render(prompt, prompt=True).encode()) <= most:
            return True
        return len(self.tokenizer.prompt_ids(prompt)) <= most


@dataclass(frozen=True, slots=True)
class Cascade:
    """Two models and who of them answers what."""

    student: Member
    original: Member
    router: Router

    @classmethod
    def read(cls, artifact: Artifact) -> Cascade:
        """From its folder.

        Raises:
            ModelError: a part is missing, or is not the one that the threshold was chosen for.
        """
        folder = artifact.path
        _require_whole(folder)
        parts = (folder / STUDENT, folder / ORIGINAL)
        members = [Member(read_artifact(part), read_operating_point(part)) for part in parts]
        threshold = read_own(folder / CASCADE_FILE, Threshold)
        hashes = (*(member.artifact.sha256 for member in members), sha256_file(folder / WORDS_FILE))
        known = threshold.student, threshold.original, threshold.words
        if sha256_file(folder / CASCADE_FILE) != artifact.sha256 or hashes != known:
            raise ModelError(f"{folder} is not the cascade that was written", hint="make it again")
        student, original = members
        tokenizer = ChatTokenizer.load(student.artifact.path)
        context = student.artifact.context or original.artifact.context or 0
        router = Router(read_bigrams(folder / WORDS_FILE), tokenizer, context, threshold.nats_per_byte)
        return cls(student, original, router)


def _require_whole(folder: Path) -> None:
    for name in (f"{STUDENT}/{ARTIFACT}", f"{ORIGINAL}/{ARTIFACT}", CASCADE_FILE, WORDS_FILE):
        if not (folder / name).exists():
            raise ModelError(f"{folder} is no whole cascade: {name} is missing", hint="make it again")


def write_cascade(cascade: Cascade, parity: Parity | None, folder: Path) -> Artifact:
    """Link or copy both into one folder, which can be moved anywhere.

    Raises:
        BadInput: ``folder`` exists already. EnvironmentFault: the disk is full.
    """
    own, other, limit = cascade.student.artifact, cascade.original.artifact, cascade.router.nats_per_byte
    with new_folder(folder) as part:
        for name, member in ((STUDENT, cascade.student), (ORIGINAL, cascade.original)):
            shutil.copytree(member.artifact.path, part / name, copy_function=link_or_copy)
            write_operating_point(part / name, member.at)
        for file in other.path.iterdir():
            if file.name not in _OF_A_PART:
                shutil.copyfile(file, part / file.name)
        write_bigrams(cascade.router.words, part / WORDS_FILE)
        threshold = Threshold(limit, own.sha256, other.sha256, sha256_file(part / WORDS_FILE))
        write_atomic(part / CASCADE_FILE, to_json(threshold).encode())
        artifact = Artifact(
            path=folder,
            runtime=Cascading.name,
            precision=f"{own.precision} before {other.precision}",
            size_b=own.size_b + other.size_b,
            weights_read_b=own.weights_read_b,
            kv_b_per_token=own.kv_b_per_token + other.kv_b_per_token,
            sha256=sha256_file(part / CASCADE_FILE),
            lineage=(*own.lineage, f"answers up to {limit:.4g} nats a byte, {other.precision} the rest"),
            kept=own.kept,
            context=other.context,
            spent=own.spent,
            parity=parity,
        )
        write_artifact(artifact, part)
    return artifact


@dataclass(frozen=True, slots=True)
class Cascading:
    """The runtime of cascades: that of their parts, twice in one process."""

    parts: Runtime

    name: ClassVar[RuntimeName] = "cascade"

    @contextmanager
    def open(self, artifact: Artifact, at: OperatingPoint) -> Iterator[CascadeSession]:
        """Load both, each at its own operating point but for what ``at`` says of threads, batch and prefixes.

        Raises:
            ModelError, EnvironmentFault, BadInput: as `LlamaCpp.open`.
        """
        cascade = Cascade.read(artifact)
        points = (_at(member.at, at) for member in (cascade.student, cascade.original))
        with (
            self.parts.open(cascade.student.artifact, next(points)) as student,
            self.parts.open(cascade.original.artifact, next(points)) as original,
        ):
            yield CascadeSession(student, original, cascade.router, ChatTokenizer.load(artifact.path))


def _at(own: OperatingPoint, asked: OperatingPoint) -> OperatingPoint:
    return replace(
        own,
        threads=asked.threads or own.threads,
        threads_prefill=asked.threads_prefill or own.threads_prefill,
        batch=asked.batch,
        reuse_prefix=asked.reuse_prefix and own.reuse_prefix,
        speculation=own.speculation if asked.batch == 1 else None,
    )


class CascadeSession:
    """Implements `halfwatt.runtimes.base.Session`, but for what only one model can be asked."""

    def __init__(self, student: Session, original: Session, router: Router, tokenizer: ChatTokenizer) -> None:
        """tokenizer: the original's"""
        self._student, self._original, self._router = student, original, router
        self._vocabulary = VocabularyMap.between(tokenizer, router.tokenizer)

    def reply(self, batch: Sequence[Dialogue], sampling: Sampling) -> list[Reply]:
        """See `halfwatt.runtimes.base.Session`."""
        return self._both(batch, lambda session, own: session.reply([batch[i] for i in own], sampling))

    def replies(self, prompts: Sequence[Dialogue], samplings: Sequence[Sampling]) -> list[Reply]:
        """See `halfwatt.runtimes.base.Session`."""

        def ask(session: Session, own: Sequence[int]) -> list[Reply]:
            return session.replies([prompts[i] for i in own], [samplings[i] for i in own])

        return self._both(prompts, ask)

    def stream(self, dialogue: Dialogue, sampling: Sampling) -> Generator[str, None, Reply]:
        """See `halfwatt.runtimes.base.Session`."""
        if self._router.asks_original(dialogue):
            return (yield from self._original.stream(dialogue, sampling))
        return self._renumbered((yield from self._student.stream(dialogue, sampling)))

    def logits(self, dialogue: Dialogue, rows: Sequence[int] | None = None) -> NDArray[np.float32]:  # noqa: ARG002
        """Raises BadInput: the two have a vocabulary each."""
        raise BadInput("a cascade is no reference", hint="name its original in its place")

    def continuations(self, dialogue: Dialogue, texts: Sequence[str], longest: int) -> list[float]:
        """As its original finds them."""
        return self._original.continuations(dialogue, texts, longest)

    def reset(self) -> None:
        """See `halfwatt.runtimes.base.Session`."""
        self._student.reset()
        self._original.reset()

    def sync(self) -> None:
        """See `halfwatt.runtimes.base.Session`."""
        self._student.sync()
        self._original.sync()

    def bytes_moved(self) -> int:
        """Of both."""
        return self._student.bytes_moved() + self._original.bytes_moved()

    def _both(self, prompts: Sequence[Dialogue], ask: Callable[[Session, Sequence[int]], list[Reply]]) -> list[Reply]:
        """Each prompt's reply by whom it is for, in the order of the prompts."""
        replies = dict[int, Reply]()
        to_original = [self._router.asks_original(prompt) for prompt in prompts]
        for session, whom in ((self._student, False), (self._original, True)):
            if own := [number for number, original in enumerate(to_original) if original is whom]:
                replies |= zip(own, ask(session, own), strict=True)
        return [reply if to_original[n] else self._renumbered(reply) for n, reply in sorted(replies.items())]

    def _renumbered(self, reply: Reply) -> Reply:
        """With the original's token ids."""
        if self._vocabulary is None:
            return reply
        return replace(reply, token_ids=tuple(int(self._vocabulary.kept[i]) for i in reply.token_ids))
