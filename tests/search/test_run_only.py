"""An original that can only be run: served as it is, asked by llama.cpp, taught from; nothing opens it."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from halfwatt.compress.apply import apply_recipe, apply_step
from halfwatt.compress.base import StepContext
from halfwatt.compress.distil import Distil
from halfwatt.compress.fresh_student import Student
from halfwatt.compress.prune import Prune
from halfwatt.compress.quantize.quantize import Quantize
from halfwatt.compress.recipe import Recipe
from halfwatt.compress.training.batches import collate, encode_rows
from halfwatt.compress.training.losses import forward_kl
from halfwatt.compress.vocabulary_trim import Trim
from halfwatt.core.errors import BadInput, ModelError
from halfwatt.core.settings import Access
from halfwatt.dialogues.dialogue import DialogueSet
from halfwatt.dialogues.splits import SealedSplit
from halfwatt.formats.gguf import write_gguf
from halfwatt.formats.gguf_given import as_given
from halfwatt.formats.registry import load_model
from halfwatt.meters.discover import instruments
from halfwatt.models.chat_model import ChatModel
from halfwatt.runtimes.base import OperatingPoint
from halfwatt.runtimes.llamacpp import LlamaCpp
from halfwatt.runtimes.servable import servable
from halfwatt.search.build import asking, build_artifact, build_given
from halfwatt.search.job import Job
from halfwatt.search.teaching import measure_paces
from tests.support import tiny_models as tiny
from tests.support.mixture import mixture

DIALOGUES = tiny.dialogues()
CONTEXT = StepContext(dialogues=DIALOGUES)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> ChatModel:
    return load_model(str(mixture(tmp_path_factory.mktemp("original"))), Access())


def test_it_says_why_and_has_no_weights(original: ChatModel, tmp_path: Path) -> None:
    assert "blk.0.ffn_down_exps.weight" in original.run_only
    assert all(parameter.is_meta for parameter in original.network.parameters())
    assert (original.context, original.network.config.vocab_size) == (512, 384)
    assert original.tokenizer.eos_ids == (tiny.END, tiny.TEXT_END)
    with pytest.raises(ModelError, match="can only be run"):
        original.save(tmp_path / "out")


def test_a_file_that_could_be_opened_stays_shut_where_it_is_to_be_run_only(tmp_path: Path) -> None:
    path = tmp_path / "llama.gguf"
    write_gguf(load_model(str(tiny.folder(tmp_path, "llama")), Access()), path)
    shut = load_model(str(path), Access(run_only=True))
    assert shut.run_only == "it is to be run only"
    assert all(parameter.is_meta for parameter in shut.network.parameters())
    assert load_model(str(path), Access()).run_only == ""
    with pytest.raises(BadInput, match="--run-only is for a GGUF file"):
        load_model(str(tmp_path / "llama-0"), Access(run_only=True))


def test_asked_for_in_the_runtime_of_its_own_it_is_served_as_given(original: ChatModel, tmp_path: Path) -> None:
    """As a judge (--judge FILE.gguf) is."""
    for runtime in ("auto", "llamacpp"):
        served = servable(str(original.source), Access(), tmp_path / runtime, runtime)
        assert served.artifact.lineage == as_given(original, tmp_path / f"{runtime}-given").lineage
    with pytest.raises(ModelError, match="ffn_down_exps"):
        servable(str(original.source), Access(), tmp_path / "eager", "torch_eager")


@pytest.mark.parametrize("step", [Quantize(4), Prune(ffn=0.5), Distil(kind="labels")])
def test_what_would_open_it_is_refused(step: Quantize | Prune | Distil, original: ChatModel) -> None:
    with pytest.raises(ModelError, match=f"{step.name} cannot be applied.*the original can only be run"):
        apply_step(step, original, CONTEXT)


def test_it_is_served_as_it_is(original: ChatModel, tmp_path: Path) -> None:
    artifact = build_given(original, DIALOGUES, tmp_path / "given", "cpu")
    assert artifact.parity is not None
    assert artifact.parity.problems == ()
    assert artifact.precision == "f16, as given"
    file = sum(part.size_b for part in artifact.parts)
    experts = 2 * 3 * 2 * 2 * 64 * 96  # blocks, matrices, experts, bytes of a number
    table = 2 * 64 * 384
    assert artifact.size_b == file
    assert artifact.weights_read_b == file - table - experts // 2, "one expert of two, one row of the table"
    assert build_given(original, DIALOGUES, tmp_path / "given", "cpu") == artifact


def test_trimming_it_renumbers(original: ChatModel) -> None:
    trimmed = apply_step(Trim(0.5), original, CONTEXT)
    assert trimmed.run_only == original.run_only
    assert trimmed.network.config.vocab_size == trimmed.tokenizer.vocab_size < 384
    assert all(parameter.is_meta for parameter in trimmed.network.parameters())


@pytest.mark.parametrize("trims", [False, True])
def test_its_answers_are_llama_cpps_own(trims: bool, original: ChatModel, tmp_path: Path) -> None:
    student = apply_step(Trim(0.5), original, CONTEXT) if trims else original
    rows = encode_rows(DIALOGUES, student.tokenizer, 512)
    batch, ask = collate(rows), asking(original, "cpu")
    assert ask is not None
    with ask(student.tokenizer) as teacher:
        logits = teacher(batch.ids, batch.reply)
    assert logits.shape == (int(batch.reply[:, 1:].sum()), student.tokenizer.vocab_size)
    old, new = original.tokenizer.hf.get_vocab(), student.tokenizer.hf.get_vocab()
    words = [old[word] for word in sorted(new, key=lambda word: new[word])]
    scored = student.tokenizer.scored(DIALOGUES[1])
    with LlamaCpp().open(as_given(original, tmp_path / "a"), OperatingPoint(threads=1)) as session:
        whole = session.logits_after([words[i] for i in scored.ids])
    learned, before = np.flatnonzero(scored.reply[1:]), int(batch.reply[0, 1:].sum())
    assert np.allclose(logits[before : before + len(learned)], whole[learned][:, words], atol=1e-3)


def test_a_student_learns_from_it(original: ChatModel, tmp_path: Path) -> None:
    learn = Distil(temperature=1.0, cached=8, label_weight=0.0, epochs=20, lr=2e-2, batch_tokens=512)
    recipe = Recipe("student", (Trim(0.9), Student(2, 64, 64, 1), learn, Quantize(8)))
    context = replace(CONTEXT, cache=tmp_path / "cache")
    artifact = build_artifact(original, recipe, DIALOGUES, tmp_path, context)
    assert artifact.parity is not None
    assert artifact.parity.problems == ()
    assert artifact.spent[0].tokens
    student = apply_recipe(original, Recipe("s", recipe.steps[:-1]), context)  # as it was kept
    assert student.run_only == ""
    fresh = apply_recipe(original, Recipe("s", recipe.steps[:-2]), context)
    batch, ask = collate(encode_rows(DIALOGUES, student.tokenizer, 512)), asking(original, "cpu")
    assert ask is not None
    with ask(student.tokenizer) as teacher, torch.no_grad():
        wanted = teacher(batch.ids, batch.reply)
        before, after = (
            float(forward_kl(wanted, m.network(batch.ids).logits[:, :-1][batch.reply[:, 1:]], 1.0).mean())
            for m in (fresh, student)
        )
    assert after < before - 0.5, "nats"


def test_other_lessons_need_its_network(original: ChatModel) -> None:
    student = Student(1, 64, 64, 1).apply(original, CONTEXT)
    with pytest.raises(BadInput, match="teaches by cached logits alone"):
        Distil(kind="sequence").apply(student, replace(CONTEXT, original=original))


def test_a_plan_times_its_runtime(original: ChatModel, tmp_path: Path) -> None:
    """No network is there for torch to read: its blocks are nobody's to keep, and llama.cpp says what asking takes."""
    train = DialogueSet.of(DIALOGUES, split="train", licence="none")
    with closing(instruments("cpu")) as tools:
        job = Job(original, train, SealedSplit(train, tmp_path / "opened"), tmp_path, tools, train=train)
        paces = measure_paces(job)
    assert 0 < paces.asking_s < 1
    assert (paces.blocks, paces.fresh.of(10**7) > 0) == (0, True)
