"""Every kind of distillation, on a model that has learned something and a student that is made from it."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from halfwatt.compress.base import Step, StepContext
from halfwatt.compress.distil import Distil, Kind, answer_anew, divergence, sample, training_dialogues
from halfwatt.compress.fresh_student import Student
from halfwatt.compress.prune import Prune
from halfwatt.compress.quantize.qat import TrainOnGrid
from halfwatt.compress.quantize.quantize import Quantize
from halfwatt.compress.training.batches import Predictor, collate, encode_rows
from halfwatt.compress.training.losses import forward_kl, label_nll
from halfwatt.core.errors import BadInput
from halfwatt.core.settings import Precision, RunSettings
from halfwatt.models.chat_model import ChatModel, load
from tests.support import taught_students as taught
from tests.support import tiny_models as tiny

DIALOGUES = tuple(taught.dialogues())
KINDS: tuple[Kind, ...] = ("labels", "logits", "sequence", "on_policy", "together")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> ChatModel:
    return load(taught.folder(tmp_path_factory.mktemp("distil"), "llama", DIALOGUES))


@pytest.fixture(scope="module")
def pruned(teacher: ChatModel) -> ChatModel:
    return Prune(ffn=0.67, drop=1).apply(teacher, StepContext(dialogues=DIALOGUES))


def context(teacher: ChatModel) -> StepContext:
    return StepContext(dialogues=DIALOGUES, original=teacher)


def apart(teacher: ChatModel, student: ChatModel) -> float:
    batch = collate(encode_rows(DIALOGUES[::3], teacher.tokenizer, 512))
    with torch.no_grad():
        expected = Predictor(teacher.network)(batch.ids, batch.reply)
        return float(forward_kl(expected, Predictor(student.network)(batch.ids, batch.reply)).mean())


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_brings_the_student_nearer(kind: Kind, teacher: ChatModel, pruned: ChatModel) -> None:
    before = [p.detach().clone() for p in teacher.network.parameters()]
    step = Distil(kind, epochs=2 if kind == "on_policy" else 4, lr=2e-3, batch_tokens=1024, own_cap=16)
    student = step.apply(pruned, context(teacher))
    assert apart(teacher, student) < 0.5 * apart(teacher, pruned)
    assert f"distilled ({kind}" in student.lineage[-1]
    assert student.spent[-1].tokens > 0
    assert all(torch.equal(a, b) for a, b in zip(before, teacher.network.parameters(), strict=True))


PRECISE = (Distil(batch_tokens=1024), TrainOnGrid(4, start="rtn", lr=1e-3, batch_tokens=1024))


@pytest.mark.parametrize("step", PRECISE, ids=["distil", "qat"])
def test_the_settings_say_in_which_precision_a_step_trains(step: Step, teacher: ChatModel) -> None:
    def trained(precision: Precision) -> torch.Tensor:
        settings = RunSettings(precision=precision)
        return weights(step.apply(teacher, replace(context(teacher), dialogues=DIALOGUES[::5], settings=settings)))

    assert torch.equal(trained("fp32"), trained("fp32"))
    assert not torch.equal(trained("fp32"), trained("bf16"))


def weights(model: ChatModel) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.network.parameters()])


def test_a_student_with_random_weights_learns(teacher: ChatModel) -> None:
    blank = Student(layers=1).apply(teacher, context(teacher))
    student = Distil(epochs=6, lr=4e-3, batch_tokens=1024, label_weight=0.5).apply(blank, context(teacher))
    assert apart(teacher, student) < 0.5 * apart(teacher, blank)


def test_together_with_a_teacher_that_stands_still_is_distillation(teacher: ChatModel, pruned: ChatModel) -> None:
    shared = Distil(epochs=1, lr=1e-3, batch_tokens=1024)
    still = replace(shared, kind="together", teacher_lr=0.0, teacher_weight=0.0)
    a, b = shared.apply(pruned, context(teacher)), still.apply(pruned, context(teacher))
    pairs = zip(a.network.parameters(), b.network.parameters(), strict=True)
    # The gradient is clipped over both networks there, so the two runs agree, but not to the last digit.
    assert apart(teacher, b) == pytest.approx(apart(teacher, a), rel=0.35)
    assert max(float((x - y).detach().abs().max()) for x, y in pairs) < 0.05


def test_the_teacher_adapts_when_it_may(teacher: ChatModel, pruned: ChatModel) -> None:
    """With a loss on labels alone and a rate of its own, the pair's teacher moves; the original never does."""
    moved = Distil("together", epochs=1, lr=1e-3, teacher_lr=1.0, teacher_weight=0.5, batch_tokens=1024)
    still = replace(moved, teacher_lr=0.0)
    a, b = moved.apply(pruned, context(teacher)), still.apply(pruned, context(teacher))
    assert any(not torch.equal(x, y) for x, y in zip(a.network.parameters(), b.network.parameters(), strict=True))


def test_sampled_replies_end_and_are_the_same_for_the_same_seed(teacher: ChatModel) -> None:
    prompts = [teacher.tokenizer.prompt_ids(d.before(d.assistant_turns[0])) for d in DIALOGUES[:6]]
    first, again = (sample(teacher, prompts, 0.8, 24, seed=3) for _ in range(2))
    assert first == again
    assert sample(teacher, prompts, 2.0, 24, seed=4) != first
    assert all(ids[-1] in teacher.tokenizer.eos_ids or len(ids) == 24 for ids in first)
    alone = sample(teacher, prompts[:1], 0.01, 24, seed=0)[0]
    with_others = sample(teacher, prompts, 0.01, 24, seed=0)[0]
    assert alone == with_others  # padding on the left changes nothing


def test_retold_dialogues_keep_the_users_words(teacher: ChatModel) -> None:
    answered, spent = answer_anew(teacher, DIALOGUES[:12], 24, context(teacher))
    assert answered
    assert spent.tokens > len(answered)
    assert spent.cpu_s > 0
    originals = {d.id: d for d in DIALOGUES}
    for dialogue in answered:
        assert dialogue.messages[-1].role == "assistant"
        lines = [m.content for m in dialogue.messages if m.role == "user"]
        assert lines == [m.content for m in originals[dialogue.id].messages if m.role == "user"][: len(lines)]


def test_each_divergence_is_reached() -> None:
    torch.manual_seed(0)
    p, q = torch.randn(4, 9), torch.randn(4, 9)
    kinds = ("forward_kl", "reverse_kl", "skewed_kl", "skewed_reverse_kl", "jsd")
    values = [float(divergence(kind, p, q, 1.0).mean()) for kind in kinds]  # type: ignore[arg-type]
    assert len(set(values)) == 5
    assert label_nll(q, torch.zeros(4, dtype=torch.int64)).shape == (4,)


def test_without_an_original_or_with_another_vocabulary_it_is_refused(teacher: ChatModel, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no original"):
        Distil().apply(teacher, StepContext(dialogues=DIALOGUES))
    other = replace(teacher, network=tiny.network("llama", vocab_size=512))
    with pytest.raises(BadInput, match="same vocabulary"):
        Distil().apply(teacher, StepContext(dialogues=DIALOGUES, original=other))


def test_a_teacher_of_other_words_is_refused_though_it_has_as_many(teacher: ChatModel, pruned: ChatModel) -> None:
    other = SimpleNamespace(hf=SimpleNamespace(convert_ids_to_tokens=lambda token: f"word {token}"))
    deaf = replace(teacher, tokenizer=other)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="as many tokens, but not the same"):
        Distil().apply(pruned, StepContext(dialogues=DIALOGUES, original=deaf))


def test_what_cannot_be_is_said_before_any_work(teacher: ChatModel) -> None:
    assert len(Distil(label_weight=2.0, epochs=0).problems(teacher)) == 2
    assert "distil first" in Distil().problems(Quantize(8).apply(teacher, StepContext()))[0]
    assert Distil().problems(teacher) == []


def test_a_teacher_that_was_asked_once_teaches_the_same(teacher: ChatModel, pruned: ChatModel) -> None:
    """All tokens but one, and that one as the tail: nothing is cut, so both runs take the same steps."""
    every = teacher.network.config.vocab_size - 1
    live = Distil(epochs=2, lr=1e-3, batch_tokens=1024, temperature=1.0)
    a, b = (step.apply(pruned, context(teacher)) for step in (live, replace(live, cached=every)))
    assert apart(teacher, b) == pytest.approx(apart(teacher, a), rel=0.02)  # float16 keeps three digits


def test_less_than_an_epoch_is_one_of_fewer_dialogues(teacher: ChatModel, pruned: ChatModel) -> None:
    """And the teacher is asked about no others."""
    own = context(teacher)
    assert training_dialogues(own, 1.0) is DIALOGUES
    fifth, again, third = training_dialogues(own, 0.2), training_dialogues(own, 0.2), training_dialogues(own, 1 / 3)
    assert len(fifth) == math.ceil(0.2 * len(DIALOGUES))
    assert fifth == again
    assert {d.id for d in fifth} - {d.id for d in third}, "another lesson"
    assert training_dialogues(replace(own, settings=RunSettings(seed=1)), 0.2) != fifth
    student = Distil(epochs=0.2, batch_tokens=1024, temperature=1.0, cached=8).apply(pruned, own)
    once = sum(len(row.ids) for row in encode_rows(fifth, teacher.tokenizer, 512))
    assert 2 * once <= student.spent[-1].tokens <= 3 * once, "asked once and learned once, padding included"


def test_the_answers_are_kept_and_asked_for_once(teacher: ChatModel, pruned: ChatModel, tmp_path: Path) -> None:
    lines: list[str] = []
    step = Distil(epochs=1, lr=1e-3, batch_tokens=1024, temperature=1.0, cached=8)
    own = replace(context(teacher), checkpoints=tmp_path, cache=tmp_path, settings=RunSettings(progress=lines.append))
    first = step.apply(pruned, own)
    row_tokens = sum(len(row.ids) for row in encode_rows(DIALOGUES, teacher.tokenizer, 512))
    assert first.spent[-1].tokens >= 2 * row_tokens, "the teacher's pass is part of the price"
    assert any("asking the teacher" in line for line in lines)
    lines.clear()
    for checkpoint in tmp_path.glob("step-*"):
        shutil.rmtree(checkpoint)
    again = step.apply(pruned, own)
    assert again.spent[-1].tokens == first.spent[-1].tokens
    assert not any("asking the teacher" in line for line in lines)
    pairs = zip(first.network.parameters(), again.network.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_of_those_that_the_teacher_is_not_asked_about_the_labels_are_learned(
    teacher: ChatModel, pruned: ChatModel, tmp_path: Path
) -> None:
    step = Distil(epochs=1, batch_tokens=1024, temperature=1.0, cached=8, asked=0.25)
    lines: list[str] = []
    own = replace(context(teacher), cache=tmp_path, settings=RunSettings(progress=lines.append))
    student = step.apply(pruned, own)
    quarter = math.ceil(0.25 * len(DIALOGUES))
    assert any(line.startswith(f"asking the teacher: {quarter} of {quarter} ") for line in lines)
    whole = sum(len(row.ids) for row in encode_rows(DIALOGUES, teacher.tokenizer, 512))
    assert whole < student.spent[-1].tokens < 2 * whole, "a quarter was asked, all were learned"
    replace(step, epochs=2).apply(pruned, own)
    assert len(list(tmp_path.glob("teacher-*"))) == 1, "another lesson asks about the same ones"


def test_what_a_cache_cannot_serve_is_refused(teacher: ChatModel) -> None:
    for step in (Distil(cached=8), Distil("on_policy", temperature=1.0, cached=8), Distil(temperature=1.0, cached=-1)):
        assert len(step.problems(teacher)) == 1
    jsd = Distil(divergence="jsd", temperature=1.0, cached=10**6)
    assert len(jsd.problems(teacher)) == 2
    assert Distil(temperature=1.0, cached=8).problems(teacher) == []
