"""What the gate reads of a tiny real model: likelihoods in lockstep, and whether it reads as the reference does."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from halfwatt.core.errors import ModelError
from halfwatt.core.settings import Access, RequestSettings
from halfwatt.dialogues.dialogue import DialogueSet
from halfwatt.evaluate.examine import Yardstick, examine, examine_fit, prove, reference_parity, teacher_scores
from halfwatt.evaluate.fit import fit_of_people
from halfwatt.evaluate.replies import generate_replies
from halfwatt.evaluate.requests import ChatFormat, Workload, make_workload
from halfwatt.formats.artifact import Parity
from halfwatt.models.chat_model import ChatModel, load
from halfwatt.models.tokenizer import ChatTokenizer
from halfwatt.runtimes.base import OperatingPoint
from halfwatt.runtimes.servable import servable
from halfwatt.runtimes.serving_process import ServingSpec
from tests.support import taught_students as taught
from tests.support import tiny_models as tiny
from tests.support.example_replies import FAITHFUL


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ChatModel:
    return load(tiny.folder(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def spec(model: ChatModel, tmp_path_factory: pytest.TempPathFactory) -> ServingSpec:
    folder = tmp_path_factory.mktemp("saved") / "model"
    model.save(folder)
    return replace(
        servable(str(folder), Access(), tmp_path_factory.mktemp("cache"), "llamacpp"), at=OperatingPoint(threads=1)
    )


@pytest.fixture(scope="module")
def workload(model: ChatModel) -> Workload:
    few = DialogueSet.of(taught.dialogues()[:4], split="tune", licence="")
    return replace(make_workload(few, ChatFormat.of_model(model), RequestSettings()), cap=8)


def test_a_model_against_itself_here_and_in_another_process(spec: ServingSpec, workload: Workload) -> None:
    program = "from halfwatt.runtimes.serving_process import main, open_session; main(lambda spec: open_session(spec))"
    foreign = replace(spec, command=(sys.executable, "-c", program))
    scores = teacher_scores(spec, spec, workload, print)
    assert [score.dialogue for score in scores] == [d.id for d in workload.dialogues]
    assert all((score.nll_cand, score.kl, score.compared) == (score.nll_ref, 0.0, None) for score in scores)
    assert teacher_scores(spec, foreign, workload, print) == scores


def test_everything_that_the_gate_needs_is_read_once_parity_is_proven(
    model: ChatModel, spec: ServingSpec, workload: Workload
) -> None:
    yardstick = Yardstick.of(spec, spec, workload, print)
    with pytest.raises(ModelError, match="no parity record"):
        examine(yardstick, spec, workload, print)
    proven = replace(spec, artifact=prove(model, spec, workload.dialogues))
    inputs = examine(yardstick, proven, workload, print)
    assert inputs.parity.problems == ()
    assert inputs.parity.kl_mean < 1e-4
    assert inputs.replies_ref == inputs.replies_cand == generate_replies(spec, workload.requests())
    assert [f.dialogue for f in inputs.facts] == [r.dialogue for r in inputs.replies_ref if r.seed is None]
    assert len(inputs.fit) == len(workload.dialogues)
    assert {len(f.people) for f in inputs.fit} == {4}
    for f in inputs.fit:
        assert f.candidate == pytest.approx(f.reference, rel=2e-3, abs=0.05)  # read in other batches
    assert inputs.teacher == teacher_scores(spec, spec, workload, print)
    known = tuple(replace(score, kl=5.0) for score in inputs.teacher)
    assert examine(yardstick, proven, workload, print, known).teacher == known
    alone = examine_fit(spec, proven, workload, fit_of_people(spec, workload, print), print)
    assert (alone.replies_cand, alone.teacher, alone.parity) == ((), (), inputs.parity)
    for f, g in zip(alone.fit, inputs.fit, strict=True):
        assert (f.dialogue, f.turn, f.reference) == (g.dialogue, g.turn, ())
        assert f.people + f.candidate == pytest.approx(g.people + g.candidate, rel=2e-3, abs=0.05)
    broken = replace(spec, artifact=replace(spec.artifact, parity=replace(FAITHFUL, finite=False)))
    assert examine(yardstick, broken, workload, print).replies_cand == (), "nothing more is asked of a failed G0"


def template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(tiny.CHATML.replace("assistant", "bot"))


def stops(folder: Path) -> None:
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [tiny.START]}))


def vocabulary(folder: Path) -> None:
    path = folder / "tokenizer.json"
    fields = json.loads(path.read_text())
    vocab = fields["model"]["vocab"]
    vocab["e"], vocab["o"] = vocab["o"], vocab["e"]
    path.write_text(json.dumps(fields))


def gone(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()


@pytest.mark.parametrize(
    ("spoil", "changed", "problem"),
    [
        (lambda _: None, {}, None),
        (template, {"template_equal": False}, "the chat template is not the reference's"),
        (stops, {"eos_equal": False}, "stop tokens [1] are not the reference's [2, 3]"),
        (vocabulary, {"token_ids_equal": False}, "token ids of dialogue taught-1 are not the reference's"),
        (gone, {"template_equal": False}, "has no tokenizer"),
    ],
    ids=["as it is", "template", "stops", "vocabulary", "gone"],
)
def test_a_candidate_must_read_and_stop_as_the_reference_does(
    spoil: Callable[[Path], None],
    changed: dict[str, bool],
    problem: str | None,
    spec: ServingSpec,
    workload: Workload,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "candidate"
    shutil.copytree(spec.artifact.path, folder)
    spoil(folder)
    record: Parity = reference_parity(FAITHFUL, workload, folder)
    assert replace(record, problems=()) == replace(FAITHFUL, **changed)  # type: ignore[arg-type]
    assert len(record.problems) == (problem is not None)
    assert problem is None or problem in record.problems[0]


def test_who_learned_to_answer_at_once_reads_as_its_original_does(workload: Workload, tmp_path: Path) -> None:
    """People's replies hold no thinking, so who learns from them is asked with a template that opens none."""
    asked, opens = "{% if add_generation_prompt %}<|im_start|>assistant\n", "<think>\n"
    chat = workload.tokenizer
    assert asked in chat.template
    thinking = ChatTokenizer(chat.hf, chat.template.replace(asked, asked + opens), chat.eos_ids)
    thinking.answering_at_once().save(tmp_path)
    assert reference_parity(FAITHFUL, replace(workload, tokenizer=thinking), tmp_path) == FAITHFUL
