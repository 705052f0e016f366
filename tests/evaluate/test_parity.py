"""The parity check finds what is wrong with an export, and only that."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from halfwatt.compress.base import StepContext
from halfwatt.compress.quantize.quantize import Quantize
from halfwatt.core.errors import BadInput
from halfwatt.dialogues.dialogue import Dialogue, Message
from halfwatt.evaluate import parity
from halfwatt.formats.artifact import Artifact, Parity
from halfwatt.formats.gguf import Gguf
from halfwatt.models.chat_model import ChatModel, load
from halfwatt.runtimes.base import OperatingPoint
from halfwatt.runtimes.llamacpp import LlamaCpp
from halfwatt.runtimes.llamacpp_session import LlamaCppSession
from tests.support import tiny_models as tiny


@pytest.fixture
def model(tmp_path: Path) -> ChatModel:
    return load(tiny.folder(tmp_path, "llama"))


@pytest.fixture
def artifact(model: ChatModel, tmp_path: Path) -> Artifact:
    return Gguf().write(model, tmp_path / "out")


def check(model: ChatModel, artifact: Artifact, dialogues: tuple[Dialogue, ...] = tiny.dialogues()) -> Parity:
    with LlamaCpp().open(artifact, OperatingPoint(threads=1)) as session:
        return parity.check(model, artifact, session, dialogues)


def test_a_near_tie_is_no_disagreement_and_a_clear_preference_is() -> None:
    reference = np.array([[1.0, 1.04, 0.0], [1.0, 1.06, 0.0], [5.0, 0.0, 0.0]], np.float32)
    other = np.array([[9.0, 0.0, 0.0]] * 3, np.float32)
    assert parity.same_choice(reference, other).tolist() == [True, False, True]
    assert parity.same_choice(reference, np.roll(other, 2, axis=1)).tolist() == [False, False, False]


def test_an_export_is_its_model(model: ChatModel, artifact: Artifact) -> None:
    record = check(model, artifact)
    assert record.problems == ()
    assert record.dialogues == 5
    assert record.tokens == sum(sum(model.tokenizer.scored(d).reply) for d in tiny.dialogues())
    assert record.kl_mean < 1e-4
    assert record.top1 == 1.0


def test_only_rows_that_predict_the_assistants_tokens_are_compared(model: ChatModel, artifact: Artifact) -> None:
    asked = list[tuple[Dialogue, Sequence[int] | None]]()

    class Noting(LlamaCppSession):
        def logits(self, dialogue: Dialogue, rows: Sequence[int] | None = None) -> NDArray[np.float32]:
            asked.append((dialogue, rows))
            return super().logits(dialogue, rows)

    session = Noting(artifact, str(artifact.path / "model.gguf"), OperatingPoint(threads=1), gpu=False)
    parity.check(model, artifact, session, tiny.dialogues())
    session.close()
    before = [(d, [at - 1 for at, reply in enumerate(model.tokenizer.scored(d).reply) if reply]) for d, _ in asked]
    assert asked == before
    assert asked


def test_other_weights_are_found(model: ChatModel, artifact: Artifact) -> None:
    other = replace(model, network=tiny.network("llama", seed=1))
    record = check(other, artifact)
    assert record.kl_mean > 1.0
    assert record.top1 < 0.5


def test_the_grid_is_the_reference_not_what_the_network_rounded_it_to(model: ChatModel, tmp_path: Path) -> None:
    quantized = Quantize(8).apply(model, StepContext())
    artifact = Gguf().write(quantized, tmp_path / "int8")
    exact = check(quantized, artifact)
    with torch.no_grad():
        for name in quantized.grid:
            parameter = quantized.network.get_parameter(name)
            parameter.copy_(parameter.to(torch.bfloat16))
    assert check(quantized, artifact) == exact


def test_another_template_is_found(model: ChatModel, artifact: Artifact) -> None:
    (artifact.path / "chat_template.jinja").write_text(tiny.CHATML.replace("assistant", "bot"))
    record = check(model, artifact)
    assert not record.template_equal
    assert any("template" in p for p in record.problems)
    assert (record.top1, record.kl_mean) == (0.0, parity.NOTHING_TO_COMPARE)


def test_other_stop_tokens_are_found(model: ChatModel, artifact: Artifact) -> None:
    (artifact.path / "generation_config.json").write_text(json.dumps({"eos_token_id": [tiny.END]}))
    record = check(model, artifact)
    assert not record.eos_equal
    assert "[2, 3]" in record.problems[0]


def test_a_shuffled_vocabulary_is_found(model: ChatModel, artifact: Artifact) -> None:
    path = artifact.path / "tokenizer.json"
    fields = json.loads(path.read_text())
    vocab = fields["model"]["vocab"]
    vocab["e"], vocab["o"] = vocab["o"], vocab["e"]
    path.write_text(json.dumps(fields))
    record = check(model, artifact)
    assert not record.token_ids_equal
    assert record.problems[0].startswith("the artifact's tokenizer splits dialogue tiny-")


def test_a_scale_that_is_not_finite_is_found(model: ChatModel, tmp_path: Path) -> None:
    quantized = Quantize(8).apply(model, StepContext())
    quantized.grid["model.layers.0.mlp.up_proj.weight"].scale[0, 0] = float("nan")
    record = check(quantized, Gguf().write(quantized, tmp_path / "nan"))
    assert not record.finite
    assert record.problems[0] == "not finite: model.layers.0.mlp.up_proj.weight"
    assert record.top1 == 0.0
    assert record.kl_mean == record.kl_max == parity.NOTHING_TO_COMPARE


def test_long_dialogues_are_cut_after_a_whole_reply(model: ChatModel, artifact: Artifact) -> None:
    messages = tiny.dialogues()[0].messages
    record = check(model, artifact, (Dialogue("long", messages * 60),))
    one = sum(model.tokenizer.scored(tiny.dialogues()[0]).reply)
    assert record.tokens % one == 0
    assert 0 < record.tokens < 60 * one
    with pytest.raises(BadInput, match="fits the context"):
        check(model, artifact, (Dialogue("huge", (Message("user", "light " * 600), Message("assistant", "ok"))),))
