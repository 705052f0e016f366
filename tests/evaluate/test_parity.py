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
from halfwatt.core.settings import Margins
from halfwatt.dialogues.dialogue import Dialogue, Message
from halfwatt.evaluate import parity
from halfwatt.evaluate.integrity import integrity_checks
from halfwatt.formats.artifact import Artifact, Parity
from halfwatt.formats.gguf import Gguf
from halfwatt.models.chat_model import ChatModel, load
from halfwatt.models.grid import round_activations
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


def test_what_rounding_activations_explains_is_asked_where_it_is_much(model: ChatModel, tmp_path: Path) -> None:
    """Random weights are sensitive: what int8 activations change is beyond the margin, as on public models."""
    small = Quantize(4, method="rtn").apply(model, StepContext(dialogues=()))
    artifact = Gguf().write(small, tmp_path / "int4")
    record = check(small, artifact)
    assert record.kl_mean > parity._MUCH_KL or record.top1 < parity._MUCH_TOP1
    assert record.kl_of_rounding is not None
    assert 0.5 < record.kl_mean / record.kl_of_rounding < 2
    assert all(c.verdict == "PASS" for c in integrity_checks(record, Margins()))
    assert any("rounding of activations" in c.detail for c in integrity_checks(record, Margins()))


def test_it_explains_no_fault(model: ChatModel, tmp_path: Path) -> None:
    small = Quantize(4, method="rtn").apply(model, StepContext(dialogues=()))
    artifact = Gguf().write(small, tmp_path / "int4")
    name = "model.layers.0.mlp.up_proj.weight"
    grid = small.grid[name]
    wrong = replace(small, grid={**small.grid, name: replace(grid, scale=grid.scale * 1.1)})
    verdicts = {c.verdict for c in integrity_checks(check(wrong, artifact), Margins())}
    assert "FAIL" in verdicts, "a tenth of one matrix"


def test_of_sixteen_bits_nothing_is_explained(model: ChatModel, artifact: Artifact) -> None:
    other = replace(model, network=tiny.network("llama", seed=1))
    assert check(other, artifact).kl_of_rounding is None


def test_activations_are_rounded_as_ggml_rounds_them() -> None:
    """Against its own words: a scale of a 127th of the largest, integers by that in float32, the scale kept as fp16."""
    values = torch.randn(3, 64, generator=torch.Generator().manual_seed(0)) * torch.tensor([[1e-3], [1.0], [1e3]])
    values[0, :32] = 0
    rounded = round_activations(values)
    for row, other in zip(values.reshape(-1, 32).numpy(), rounded.reshape(-1, 32).numpy(), strict=True):
        scale = np.float32(np.abs(row).max()) / np.float32(127)
        q = np.round(row / scale) if scale else np.zeros_like(row)
        assert np.abs(other - q * np.float32(np.float16(scale))).max() <= 1e-3 * scale
