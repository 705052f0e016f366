"""A cascade of two tiny models: the student reads fewer tokens, and was "taught" what `SAID` says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from halfwatt.compress.base import StepContext
from halfwatt.compress.vocabulary_trim import Trim
from halfwatt.dialogues.dialogue import Dialogue, Message
from halfwatt.evaluate.examine import prove
from halfwatt.evaluate.parity import parity_of_both
from halfwatt.evaluate.requests import ChatFormat, Workload
from halfwatt.formats.artifact import Artifact
from halfwatt.formats.gguf import Gguf
from halfwatt.models.bigram_model import BigramModel
from halfwatt.models.chat_model import ChatModel, load
from halfwatt.models.sampling import Sampling
from halfwatt.models.tokenizer import ChatTokenizer
from halfwatt.runtimes.base import OperatingPoint
from halfwatt.runtimes.cascade import Cascade, Member, Router, write_cascade
from halfwatt.runtimes.serving_process import ServingSpec
from tests.support import tiny_models as tiny

AT = OperatingPoint(threads=1)
LIMIT = 2.0  # nats a byte: what was said before takes less, anything else more
SAID = ("Turn on the kitchen light", "Is the garage door open?", "And the light?", "Thanks")


def asking(*said: str) -> Dialogue:
    """A prompt in which the person has said all that, with something in between."""
    messages = [m for text in said for m in (Message("user", text), Message("assistant", "The light is on."))]
    return Dialogue(said[-1], tuple(messages[:-1]))


def workload_of(artifact: Artifact, dialogues: Sequence[Dialogue]) -> Workload:
    form = ChatFormat.of_artifact(artifact)
    return Workload(tuple(dialogues), form.tokenizer, Sampling(), 24, ())


def tiny_cascade(into: Path, limit: float = LIMIT) -> Artifact:
    """With its parity record. The parts are in ``into`` too, as ``student`` and ``original``."""
    whole = load(tiny.folder(into, seed=0))
    drawn = load(tiny.folder(into, seed=1))
    own = Trim(coverage=0.9).apply(replace(drawn, tokenizer=whole.tokenizer), StepContext(tiny.dialogues()))

    def member(model: ChatModel, name: str) -> Member:
        artifact = Gguf().write(model, into / name)
        return Member(prove(model, ServingSpec(artifact, AT), tiny.dialogues()), AT)

    student, original = member(own, "student"), member(whole, "original")
    words = BigramModel.counted(map(own.tokenizer.encode, SAID), own.tokenizer.vocab_size)
    router = Router(words, ChatTokenizer.load(student.artifact.path), student.artifact.context or 0, limit)
    records = [member.artifact.parity for member in (student, original)]
    parity = parity_of_both(*(record for record in records if record is not None))
    return write_cascade(Cascade(student, original, router), parity, into / "cascade")
