"""What the gate reads of a cascade: its student's likelihoods where that answers, the reference's elsewhere."""

from __future__ import annotations

import shutil
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest

from halfwatt.dialogues.dialogue import Dialogue, Message
from halfwatt.evaluate import examine
from halfwatt.evaluate.examine import parity_beside, teacher_scores
from halfwatt.evaluate.likelihood import sum_of_scores
from halfwatt.evaluate.records import TeacherScore
from halfwatt.formats.artifact import Artifact, read_artifact
from halfwatt.formats.gguf import Gguf
from halfwatt.models.chat_model import load
from halfwatt.runtimes.base import Session, write_operating_point
from halfwatt.runtimes.serving_process import ServingSpec, open_session
from tests.support import tiny_models as tiny
from tests.support.cascades import AT, SAID, tiny_cascade, workload_of

ELSE = "Quelle heure est-il, 5 ou 6?"


def talk(*said: str) -> Dialogue:
    """Each answered alike."""
    pairs = (m for text in said for m in (Message("user", text), Message("assistant", "The light is on.")))
    return Dialogue(" ".join(said), tuple(pairs))


@pytest.fixture(scope="module")
def cascade(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return tiny_cascade(tmp_path_factory.mktemp("cascade"))


def scores(cascade: Artifact, candidate: Path, *dialogues: Dialogue) -> tuple[TeacherScore, ...]:
    original = read_artifact(cascade.path / "original")
    specs = ServingSpec(original, AT), ServingSpec(read_artifact(candidate), AT)
    return teacher_scores(*specs, workload_of(original, dialogues), print)


def test_where_one_of_them_answers_it_is_that_one(cascade: Artifact) -> None:
    known, other = talk(*SAID[:2]), talk(ELSE)
    own, theirs = scores(cascade, cascade.path, known, other)
    student, _ = scores(cascade, cascade.path / "student", known, other)
    assert own == student
    assert own.nll_cand != pytest.approx(own.nll_ref)
    assert (theirs.nll_cand, theirs.log_p_eos_cand, theirs.kl) == (theirs.nll_ref, theirs.log_p_eos_ref, 0.0)


def test_where_both_do_each_of_its_turns_is_by_whom_it_is_for(cascade: Artifact) -> None:
    """The student gives the first reply, the original the second; what is read together rounds otherwise."""
    both, first = talk(SAID[0], ELSE), talk(SAID[0])
    (mixed,) = scores(cascade, cascade.path, both)
    (alone,) = scores(cascade, cascade.path / "student", first)
    (whole,) = scores(cascade, cascade.path / "original", both)
    assert (mixed.dialogue, mixed.tokens, mixed.ends) == (both.id, whole.tokens, 2)
    assert mixed.nll_ref == pytest.approx(whole.nll_ref, rel=1e-3)
    assert mixed.nll_cand - alone.nll_cand == pytest.approx(whole.nll_ref - alone.nll_ref, rel=1e-3)
    assert mixed.kl == pytest.approx(alone.kl, rel=1e-3)
    assert mixed.elsewhere == whole.elsewhere


def test_parts_of_a_dialogue_add_up() -> None:
    one = TeacherScore("d", 5, 10.0, 14.0, 1, -0.1, -0.4, 4, 0.1, 0.3, 1.0, 0.5, 3, None, 0.2, 0.5)
    other = replace(one, tokens=7, kl_max=0.9, compared=0)
    expected = TeacherScore("d", 12, 20.0, 28.0, 2, -0.2, -0.8, 8, 0.2, 0.6, 2.0, 0.9, 6, 5, 0.4, 1.0)
    assert sum_of_scores([one, other]) == expected
    assert sum_of_scores([one]) == one
    assert sum_of_scores([one, one]).compared is None


def test_it_is_equal_to_its_models_where_both_parts_are(cascade: Artifact) -> None:
    """One part that is not is enough."""
    spec = ServingSpec(cascade, AT)
    original = read_artifact(cascade.path / "original")
    known = parity_beside(spec, workload_of(original, [talk(SAID[0])]))
    assert (known.problems, known.finite, known.template_equal, known.eos_equal) == ((), True, True, True)
    assert known.kl_mean < 1e-3


def test_beside_another_reference_its_own_original_is_asked(cascade: Artifact, tmp_path: Path) -> None:
    """Another model of the same words is not the one that answers."""
    foreign = Gguf().write(load(tiny.folder(tmp_path, seed=2)), tmp_path / "foreign")
    workload = workload_of(foreign, [talk(ELSE)])
    original = ServingSpec(read_artifact(cascade.path / "original"), AT)
    (score,) = teacher_scores(ServingSpec(foreign, AT), ServingSpec(cascade, AT), workload, print)
    (beside,) = teacher_scores(ServingSpec(foreign, AT), original, workload, print)
    assert score == beside
    assert score.nll_cand != pytest.approx(score.nll_ref)


def test_each_is_asked_with_the_cache_that_it_is_served_with(
    cascade: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its coarseness changes what is likely; a tiny model's heads are too small for one, so it is not opened."""
    coarse, asked = tmp_path / "coarse", list[int]()
    shutil.copytree(cascade.path, coarse)
    write_operating_point(coarse / "student", replace(AT, kv_bits=4))

    def opened(spec: ServingSpec) -> AbstractContextManager[Session]:
        asked.append(spec.at.kv_bits)
        return open_session(replace(spec, at=AT))

    monkeypatch.setattr(examine, "_open_logits", opened)
    scores(cascade, coarse, talk(SAID[0]))
    assert asked == [16, 4]


def test_a_student_that_reads_otherwise_fails_on_the_dialogues_that_are_judged(
    cascade: Artifact, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(cascade.path, damaged)
    (damaged / "student" / "chat_template.jinja").write_text("{{ messages }}")
    spec = ServingSpec(replace(cascade, path=damaged), AT)
    original = read_artifact(cascade.path / "original")
    assert not parity_beside(spec, workload_of(original, [talk(SAID[0])])).template_equal
