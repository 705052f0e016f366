"""config.json ties the embeddings, the file holds a head of its own, as of a merged adapter: both are kept, always."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from halfwatt.compress.base import Step, StepContext
from halfwatt.compress.prune import Prune
from halfwatt.compress.quantize.quantize import Quantize
from halfwatt.compress.vocabulary_trim import Trim
from halfwatt.models.chat_model import ChatModel, load
from halfwatt.models.vocabulary_map import VocabularyMap
from tests.support import tiny_models as tiny
from tests.support.llamacpp_parity import parity_in_llamacpp

IDS = torch.arange(4, 60)[None]
STEPS: dict[str, Step] = {
    "neurons": Prune(ffn=0.5),
    "width": Prune(width=0.5),
    "blocks": Prune(drop=1),
    "int8": Quantize(8),
    "int4": Quantize(4, head_bits=8),
}


@pytest.fixture(params=["llama", "qwen2", "gemma3_text", "gpt2"])
def apart(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    folder = tiny.folder(tmp_path, request.param)
    weights = load_file(folder / "model.safetensors")
    [table] = [w for name, w in weights.items() if name.endswith(("embed_tokens.weight", "wte.weight"))]
    draw = torch.Generator().manual_seed(1)
    weights["lm_head.weight"] = table + 0.5 * torch.randn(table.shape, generator=draw)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert json.loads((folder / "config.json").read_text()).get("tie_word_embeddings", True)
    return folder


def tables(model: ChatModel) -> tuple[torch.Tensor, torch.Tensor]:
    network: Any = model.network
    return network.get_input_embeddings().weight.detach(), network.get_output_embeddings().weight.detach()


def logits(network: Any) -> torch.Tensor:
    with torch.no_grad():
        out: torch.Tensor = network(input_ids=IDS).logits
    return out


def test_saved_and_read_again_by_us_and_by_transformers(apart: Path, tmp_path: Path) -> None:
    model = load(apart)
    assert not torch.equal(*tables(model))
    model.save(tmp_path / "saved")
    theirs: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    for again in (load(tmp_path / "saved").network, theirs):
        assert torch.equal(logits(again), logits(model.network))
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["tie_word_embeddings"] is False, "whoever ties by the config alone would lose one"


@pytest.mark.parametrize("name", STEPS)
def test_every_step_keeps_both(apart: Path, name: str) -> None:
    model, step = load(apart), STEPS[name]
    if step.problems(model):
        pytest.skip(f"{name} does not fit it")
    after = step.apply(model, StepContext(dialogues=tiny.dialogues()))
    table, head = tables(after)
    assert not torch.equal(table, head)
    if isinstance(step, Prune) and step.width == 1.0:
        assert torch.equal(table.float(), tables(model)[0].float())
        assert torch.equal(head.float(), tables(model)[1].float())
    if isinstance(step, Quantize):
        assert (head - tables(model)[1]).abs().max() < (0.05 if step.head_bits != 4 and step.bits == 8 else 0.5)


def test_a_trim_keeps_the_rows_of_both(apart: Path) -> None:
    model = load(apart)
    after = Trim(0.9).apply(model, StepContext(dialogues=tiny.dialogues()[:1]))
    assert after.tokenizer.vocab_size < model.tokenizer.vocab_size
    vocabulary = VocabularyMap.between(model.tokenizer, after.tokenizer)
    assert vocabulary is not None
    kept = torch.tensor(vocabulary.kept.tolist())
    for ours, theirs in zip(tables(after), tables(model), strict=True):
        assert torch.equal(ours[: len(kept)].float(), theirs[kept].float())


def test_an_export_holds_both(apart: Path, tmp_path: Path) -> None:
    assert parity_in_llamacpp(load(apart), tmp_path / "out").kl_mean < 1e-3
