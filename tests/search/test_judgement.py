"""The gate's report on a candidate: how many dialogues it takes, and whose replies are read once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest

from halfwatt.evaluate import gate
from halfwatt.evaluate.records import Fit, GateCheck, QualityInputs, QualityReport, ScoredReply, Verdict
from halfwatt.evaluate.replies import shard_size
from halfwatt.evaluate.requests import ReplyRequest, Workload
from halfwatt.search import judgement
from halfwatt.search.judgement import FitOrder, JudgeOrder, RepliesOrder, all_reference_replies, judge
from halfwatt.search.lab import Contender, Lab
from tests.search.conftest import Ground
from tests.support.scripted_lab import Script, ScriptedStore, equal_likelihoods

SAID = ScoredReply("d", 1, None, "On now.", 3, True, 12, "It is on.")


def reported(*, likelihood: Verdict, fit: Verdict = "PASS", read: QualityInputs) -> QualityReport:
    """The gate's, of two checks."""
    checks = (GateCheck("G1", "", likelihood, None, "", ""), GateCheck("G7", "", fit, None, "", ""))
    both = gate.overall_verdict([likelihood, fit])
    return QualityReport("tune", both, checks, len(read.teacher), len(read.fit), 0, None, None)


def test_where_only_what_fits_is_open_only_that_is_asked_of_more(
    ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And on the sealed split of all but the first, whatever these say: the reference's answers cost the most."""
    asked: list[tuple[str, int]] = []
    proof = ground.b1.artifact.parity
    assert proof is not None

    def whole(_r: object, _c: object, workload: Workload, *_: object) -> QualityInputs:
        asked.append(("whole", len(workload.dialogues)))
        scores = (*equal_likelihoods(None), *equal_likelihoods(None))[: len(workload.dialogues)]
        return QualityInputs(proof, scores, (), (), (), (Fit("d", 1, (), ()),) * len(scores))

    def only_fit(_j: object, _c: object, workload: Workload, *_: object) -> QualityInputs:
        asked.append(("fit", len(workload.dialogues)))
        return QualityInputs(proof, (), (), (), (), (Fit("d", 1, (), ()),) * len(workload.dialogues))

    def judged(inputs: QualityInputs, **_: object) -> QualityReport:
        return reported(likelihood="PASS", fit="PASS" if len(inputs.fit) >= 8 else "INCONCLUSIVE", read=inputs)

    monkeypatch.setattr("halfwatt.search.judgement.examine", whole)
    monkeypatch.setattr("halfwatt.search.judgement.examine_fit", only_fit)
    monkeypatch.setattr("halfwatt.search.judgement.gate.judge", judged)
    requests = replace(ground.job.settings.requests, first_judged=2)
    job = replace(ground.job, settings=replace(ground.job.settings, requests=requests))
    script = {"reference_replies": lambda _: (), "reference_fit": lambda _: (), "people_fit": lambda _: ()}
    store = ScriptedStore(tmp_path, script)
    lab, order = Lab.of(job, store, ground.job.tune, "tune"), JudgeOrder(ground.b1, ground.b1, job.settings.margins)
    assert lab.run(judge, order).report.replies == 8
    assert asked == [("whole", 2), ("fit", 2), ("fit", 4)]
    assert store.computed.count("reference_replies") == 1
    del asked[:]
    assert replace(lab, split="test").run(judge, replace(order, answered=4)).report.dialogues == 4
    assert asked == [("whole", 4), ("fit", 6)]
    del asked[:]
    assert replace(lab, split="test").run(judge, replace(order, answered=20)).report.dialogues == 10
    assert asked == [("whole", 10)]


def test_candidates_are_judged_on_no_more_dialogues_than_it_takes(
    ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the tune split some at first, then as many again; the reference answers each part once for all candidates."""

    def read(_r: object, _c: object, workload: Workload, *_: object) -> QualityInputs:
        proof = ground.b1.artifact.parity
        assert proof is not None
        return QualityInputs(proof, equal_likelihoods(None)[: len(workload.dialogues)], (), ())

    def judged(inputs: QualityInputs, **_: object) -> QualityReport:
        return reported(likelihood="PASS" if len(inputs.teacher) >= 4 else "INCONCLUSIVE", read=inputs)

    monkeypatch.setattr("halfwatt.search.judgement.examine", read)
    monkeypatch.setattr("halfwatt.search.judgement.gate.judge", judged)
    requests = replace(ground.job.settings.requests, first_judged=2)
    job = replace(ground.job, settings=replace(ground.job.settings, requests=requests))
    store = ScriptedStore(tmp_path, {"reference_replies": lambda _: (), "reference_fit": lambda _: ()})
    lab = Lab.of(job, store, ground.job.tune, "tune")
    order = JudgeOrder(ground.b1, ground.b1, job.settings.margins)
    assert lab.run(judge, order).report.dialogues == 4
    assert lab.run(judge, replace(order, screened=True, candidate=replace(ground.b1, name="b"))).report.dialogues == 4
    assert [part.workload.dialogues for part in lab.parts()] == [
        lab.workload.dialogues[a:b] for a, b in ((0, 2), (2, 4), (4, 8), (8, 10))
    ]
    assert {d.id for d in lab.workload.dialogues} == {d.id for d in ground.job.tune.dialogues}
    assert lab.workload.dialogues != ground.job.tune.dialogues, "files are sorted by source"
    assert store.computed.count("reference_replies") == 2, "two parts, whoever is judged"
    sealed = replace(lab, split="test")
    assert [len(part.workload.dialogues) for part in sealed.parts()] == [10], "no looking before the number is fixed"


def test_what_users_hear_is_the_original_as_commonly_run_where_only_that_does_what_its_settings_ask(
    ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proof = ground.b1.artifact.parity
    assert proof is not None
    monkeypatch.setattr("halfwatt.search.judgement.examine", lambda *_: QualityInputs(proof, (), (), ()))
    monkeypatch.setattr(
        "halfwatt.search.judgement.gate.judge", lambda read, **_: reported(likelihood="PASS", read=read)
    )

    def heard(only_transformers: tuple[str, ...]) -> tuple[str, str]:
        answering, read = list[Contender](), list[FitOrder]()
        script: Script = {
            "reference_replies": lambda order: answering.append(order.reference) or (),  # type: ignore[func-returns-value]
            "reference_fit": lambda order: read.append(order) or (),  # type: ignore[func-returns-value]
        }
        generation = replace(ground.job.model.generation, only_transformers=only_transformers)
        job = replace(ground.job, model=replace(ground.job.model, generation=generation), out=tmp_path)
        lab = Lab.of(job, ScriptedStore(tmp_path / str(only_transformers), script), job.tune, "tune")
        lab.run(judge, JudgeOrder(ground.b1, ground.b1, job.settings.margins))
        assert read[0].reference == answering[0]
        assert read[0].judge.artifact == ground.b1.artifact, "who judges does not change"
        return answering[0].name, answering[0].artifact.runtime

    assert heard(()) == ("B1", "llamacpp")
    assert heard(("num_beams = 3",)) == ("B0", "torch_eager")


def test_the_references_replies_are_kept_a_part_at_a_time(
    ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A public model that never stops takes an hour for the sealed split: a killed run goes on within it."""
    monkeypatch.setattr("halfwatt.search.judgement.shard_size", lambda _: 2)
    monkeypatch.setattr("halfwatt.search.judgement.cores", lambda: 2)
    asked = list[tuple[int, int]]()

    def answer(order: RepliesOrder) -> tuple[ScoredReply, ...]:
        asked.append((order.start, order.stop))
        return (replace(SAID, dialogue=f"{order.start}"),)

    dying = ScriptedStore(tmp_path, {"reference_replies": answer}, interrupt=("reference_replies", 3))
    with pytest.raises(KeyboardInterrupt):
        all_reference_replies(Lab.of(ground.job, dying, ground.job.tune, "tune"), ground.b1)
    lab = Lab.of(ground.job, ScriptedStore(tmp_path, {"reference_replies": answer}), ground.job.tune, "tune")
    assert [reply.dialogue for reply in all_reference_replies(lab, ground.b1)] == ["0", "4", "8"]
    assert asked == [(0, 4), (4, 8), (8, 12)]


@pytest.mark.parametrize("dialogues", [5, 100, 600, 945, 2000])
def test_parts_are_whole_shards(dialogues: int) -> None:
    part = judgement._part(dialogues)
    assert part == dialogues or part % shard_size(dialogues) == 0


def test_the_parts_ask_what_the_whole_would(ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seeds of sampled replies hang on a dialogue's place in the whole, by which the candidate is asked."""
    monkeypatch.setattr("halfwatt.search.judgement.shard_size", lambda _: 2)
    monkeypatch.setattr("halfwatt.search.judgement.cores", lambda: 2)
    asked = list[ReplyRequest]()

    def generated(
        _: object, requests: Sequence[Sequence[ReplyRequest]], *__: object, size: int
    ) -> tuple[ScoredReply, ...]:
        asked.extend(chain.from_iterable(requests))
        assert size == 2, "shards as of the whole, which the candidate's are"
        return ()

    monkeypatch.setattr("halfwatt.search.judgement.generate_replies", generated)
    lab = Lab.of(ground.job, ScriptedStore(tmp_path), ground.job.tune, "tune")
    warm = replace(lab.workload.generation, temperature=0.7)
    lab = replace(lab, workload=replace(lab.workload, generation=warm, seeds=(1, 2)))
    all_reference_replies(lab, ground.b1)
    assert asked == list(chain.from_iterable(lab.workload.requests()))
    assert len({request.sampling.seed for request in asked}) > len(lab.workload.dialogues)
