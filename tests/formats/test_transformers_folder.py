"""Hugging Face folders: what is written, and what is only pointed at."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from halfwatt.formats.artifact import read_artifact
from halfwatt.formats.transformers_folder import TransformersFolder
from halfwatt.models import chat_model
from halfwatt.models.weights import weights_read
from halfwatt.runtimes.base import OperatingPoint
from halfwatt.runtimes.transformers_eager import TransformersEager
from tests.contracts.runtimes import FIRST, GREEDY
from tests.support import tiny_models as tiny


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.folder(tmp_path, "llama")


def test_an_unmodified_model_is_not_copied(folder: Path, tmp_path: Path) -> None:
    model = chat_model.load(folder)
    artifact = TransformersFolder().write(model, tmp_path / "a")
    assert artifact.path == folder
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["artifact.json"]
    assert read_artifact(tmp_path / "a") == artifact
    assert artifact.sha256 == model.sha256
    assert (artifact.runtime, artifact.precision, artifact.context) == ("torch_eager", "f32", 512)
    assert artifact.size_b == (folder / "model.safetensors").stat().st_size
    assert artifact.weights_read_b == 4 * weights_read(model.network)


def test_a_template_from_outside_goes_with_the_artifact(tmp_path: Path) -> None:
    folder = tiny.folder(tmp_path, template=None)
    (tmp_path / "t.jinja").write_text(tiny.CHATML + "{# mine #}")
    model = chat_model.load(folder, chat_template=tmp_path / "t.jinja")
    artifact = TransformersFolder().write(model, tmp_path / "a")
    assert artifact.path == tmp_path / "a"
    with TransformersEager().open(artifact, OperatingPoint()) as opened:
        assert opened.tokenizer.template == model.tokenizer.template


def test_a_modified_model_is_saved(folder: Path, tmp_path: Path) -> None:
    model = chat_model.load(folder)
    other = replace(model, network=tiny.network("llama", seed=9), lineage=(*model.lineage, "made another"))
    artifact = TransformersFolder().write(other, tmp_path / "a")
    assert artifact.path == tmp_path / "a"
    assert artifact.lineage == other.lineage
    (tmp_path / "a").rename(tmp_path / "b")
    with TransformersEager().open(replace(artifact, path=tmp_path / "b"), OperatingPoint()) as opened:
        state = opened.network.state_dict()
        assert all(torch.equal(state[k], v) for k, v in other.network.state_dict().items())


@pytest.mark.parametrize(("dtype", "precision"), [("bf16", "bf16"), ("fp16", "f16"), ("fp32", "f32"), ("auto", "bf16")])
def test_dtypes(tmp_path: Path, dtype: str, precision: str) -> None:
    folder = tiny.folder(tmp_path, dtype=torch.bfloat16)
    runtime = TransformersEager(dtype=dtype)
    artifact = TransformersFolder(dtype).write(chat_model.load(folder), tmp_path / "a")
    assert artifact.precision == precision
    with runtime.open(artifact, OperatingPoint()) as opened:
        assert artifact.weights_read_b == weights_read(opened.network) * opened.network.dtype.itemsize
        assert len(opened.reply([FIRST], GREEDY)[0].token_ids) == GREEDY.max_new_tokens


def test_auto_serves_the_model_as_it_was_loaded(tmp_path: Path) -> None:
    folder = tiny.folder(tmp_path, dtype=torch.bfloat16)
    artifact = TransformersFolder().write(chat_model.load(folder, dtype="fp32"), tmp_path / "a")
    assert artifact.precision == "f32"
    with TransformersEager().open(artifact, OperatingPoint()) as opened:
        assert opened.network.dtype == torch.float32
