"""A model exported to llama.cpp and compared there with itself in memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from halfwatt.evaluate import parity
from halfwatt.formats.artifact import Parity
from halfwatt.formats.gguf import Gguf
from halfwatt.models.chat_model import ChatModel
from halfwatt.runtimes.base import OperatingPoint
from halfwatt.runtimes.llamacpp import LlamaCpp
from tests.support import tiny_models as tiny


def parity_in_llamacpp(model: ChatModel, into: Path) -> Parity:
    """``into`` must not exist. What llama.cpp itself would split otherwise is a problem too."""
    artifact = Gguf().write(model, into)
    with LlamaCpp().open(artifact, OperatingPoint(threads=1)) as session:
        record = parity.check(model, artifact, session, tiny.dialogues())
        own = parity.first_difference("llama.cpp's tokenizer", session.tokenize, model.tokenizer, tiny.dialogues())
    return record if own is None else replace(record, problems=(*record.problems, own))
