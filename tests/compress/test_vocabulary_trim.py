"""What a trimmed vocabulary still reads, and that the network says the same."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from halfwatt.compress.base import StepContext
from halfwatt.compress.vocabulary_trim import Trim, trim, untrimmable
from halfwatt.core.errors import BadInput
from halfwatt.dialogues.dialogue import Dialogue, Message
from halfwatt.evaluate import parity
from halfwatt.formats.gguf import Gguf
from halfwatt.models.chat_model import ChatModel, load
from halfwatt.runtimes.base import OperatingPoint
from halfwatt.runtimes.llamacpp import LlamaCpp
from tests.support import tiny_models as tiny

CONTEXT = StepContext(dialogues=tiny.dialogues()[:2])


@pytest.fixture
def llama(tmp_path: Path) -> ChatModel:
    return load(tiny.folder(tmp_path))


def spec(model: ChatModel) -> dict[str, object]:
    report: dict[str, object] = json.loads(model.tokenizer.hf.backend_tokenizer.to_str())
    return report


def encoded(model: ChatModel, dialogue: Dialogue) -> list[int]:
    return model.tokenizer.encode(model.tokenizer.render(dialogue, prompt=False))


def test_bytes_specials_and_what_tokens_are_made_of_stay(llama: ChatModel) -> None:
    counts = Counter(i for d in CONTEXT.dialogues for i in encoded(llama, d))
    cut = trim(spec(llama), counts, 0.5)
    words = cut.spec["model"]["vocab"]
    assert len({w for w in words if len(w) == 1}) == 256
    assert set(tiny.SPECIAL) <= words.keys()
    assert len(cut.ids) % 64 == 0
    assert sorted(words.values()) == list(range(len(cut.ids)))
    for a, b in (m if isinstance(m, list) else m.split(" ") for m in cut.spec["model"]["merges"]):
        assert {a, b, a + b} <= words.keys()
    longer = [w for w in words if len(w) > 1 and w not in tiny.SPECIAL]
    merged = {"".join(m if isinstance(m, list) else m.split(" ")) for m in cut.spec["model"]["merges"]}
    assert set(longer) == merged


def test_a_text_of_kept_tokens_is_read_as_before_and_any_other_is_still_read(llama: ChatModel) -> None:
    smaller = Trim(1.0).apply(llama, CONTEXT)
    assert smaller.tokenizer.vocab_size < llama.tokenizer.vocab_size
    strange = Dialogue("x", (Message("user", "Zürich naïve 楽 🎵 qqq"), Message("assistant", "\x00\x7f ok")))
    for dialogue in (*tiny.dialogues(), strange):
        text = llama.tokenizer.render(dialogue, prompt=False)
        assert smaller.tokenizer.hf.decode(smaller.tokenizer.encode(text)) == llama.tokenizer.hf.decode(
            encoded(llama, dialogue)
        )
    for dialogue in CONTEXT.dialogues:
        assert len(encoded(smaller, dialogue)) == len(encoded(llama, dialogue))
    assert "+0.00% tokens" in smaller.lineage[-1]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("arch", ["llama", "gpt2", "qwen2"])
def test_the_network_says_the_same_of_the_tokens_that_stayed(arch: tiny.Arch, tied: bool, tmp_path: Path) -> None:
    base = load(tiny.folder(tmp_path, arch, tied=tied))
    smaller = Trim(1.0).apply(base, CONTEXT)
    for dialogue in CONTEXT.dialogues:
        old, new = encoded(base, dialogue), encoded(smaller, dialogue)
        with torch.no_grad():
            a, b = (
                base.network(input_ids=torch.tensor([old])).logits,
                smaller.network(input_ids=torch.tensor([new])).logits,
            )
        assert torch.allclose(a[0, :-1].gather(1, torch.tensor(old[1:])[:, None]), b[0, :-1].gather(1, torch.tensor(new[1:])[:, None]), atol=1e-4)  # fmt: skip  # noqa: E501
    same = smaller.network.get_input_embeddings().weight is smaller.network.get_output_embeddings().weight  # type: ignore[no-untyped-call]
    assert same == tied
    embedding: Any = smaller.network.get_input_embeddings()
    assert smaller.network.config.vocab_size == len(embedding.weight)


def test_stops_are_renumbered_everywhere_and_llama_cpp_reads_the_same_ids(llama: ChatModel, tmp_path: Path) -> None:
    smaller = Trim(0.9).apply(llama, CONTEXT)
    words = smaller.tokenizer.hf.convert_ids_to_tokens(list(smaller.tokenizer.eos_ids))
    assert words == llama.tokenizer.hf.convert_ids_to_tokens(list(llama.tokenizer.eos_ids))
    smaller.save(tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert again.tokenizer.eos_ids == smaller.tokenizer.eos_ids
    assert encoded(again, tiny.dialogues()[3]) == encoded(smaller, tiny.dialogues()[3])
    artifact = Gguf().write(smaller, tmp_path / "artifact")
    with LlamaCpp().open(artifact, OperatingPoint(threads=1)) as session:
        report = parity.check(smaller, artifact, session, tiny.dialogues())
        own = parity.first_difference("llama.cpp", session.tokenize, smaller.tokenizer, tiny.dialogues())
        assert own is None
        assert session.reply([tiny.dialogues()[0].before(1)], smaller.generation)[0].token_ids
    assert report.problems == ()
    assert report.token_ids_equal


def test_what_cannot_be_is_said_before_any_work(llama: ChatModel) -> None:
    assert Trim(0.0).problems(llama) == ["coverage lies above 0 and at most at 1, not 0"]
    assert Trim().problems(llama) == []
    assert "only BPE" in str(untrimmable({"model": {"type": "Unigram"}}))
    assert "a token for every byte" in str(untrimmable({"model": {"type": "BPE"}, "pre_tokenizer": {"type": "Metaspace"}}))
    with pytest.raises(BadInput, match="needs dialogues"):
        Trim().apply(llama, StepContext())
    assert replace(Trim(), coverage=0.5).coverage == 0.5
