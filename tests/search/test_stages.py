"""The stages of a candidate one by one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from halfwatt.compress.recipe import Recipe
from halfwatt.core.settings import MeasurePlan
from halfwatt.evaluate import gate
from halfwatt.evaluate.energy_analysis import cpu_s_per_reply
from halfwatt.evaluate.energy_protocol import Arm, Run
from halfwatt.evaluate.records import Fit, GateCheck, QualityInputs, QualityReport, Verdict
from halfwatt.evaluate.requests import Workload
from halfwatt.meters import modelled
from halfwatt.search.candidate import order_of
from halfwatt.search.lab import Contender, Lab
from halfwatt.search.stages import (
    AS_COMMONLY_RUN,
    FitOrder,
    JudgeOrder,
    MeasureOrder,
    TuneOrder,
    Tuning,
    _can_serve,
    build,
    cost_of,
    judge,
    measure,
    tune,
)
from tests.search.conftest import PLAIN, Ground
from tests.support.scripted_lab import Script, ScriptedStore, equal_likelihoods, run_of

PLAN = MeasurePlan(2, 2)


def test_an_operating_point_is_chosen_by_what_was_measured() -> None:
    counter = replace(modelled.INFO, name="rapl", kind="measured", grade="B")
    assert cost_of(None) is cost_of(modelled.INFO) is cpu_s_per_reply
    assert cost_of(counter) is not cpu_s_per_reply


def costs_by_cache(shares: dict[int, float]) -> Callable[[MeasureOrder], Run]:
    return lambda order: run_of({each.name: shares[each.at.kv_bits] for each in order.contenders})


def tuned(ground: Ground, folder: Path, shares: dict[int, float], *, coarser: bool) -> Tuning:
    store = ScriptedStore(folder, {"measure": costs_by_cache(shares)})
    lab = Lab(ground.job, store, ground.lab(folder).workload, "tune")
    return lab.run(tune, TuneOrder(ground.b1, PLAN, coarser=coarser))


def test_a_coarser_cache_must_save_more_than_noise(
    ground: Ground,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = ground.lab(tmp_path).spec(replace(ground.b1, at=replace(PLAIN, kv_bits=8)))
    assert not _can_serve(spec), "heads of 16"
    monkeypatch.setattr("halfwatt.search.stages._can_serve", lambda _: True)
    noisy = tuned(ground, tmp_path / "a", {16: 1.0, 8: 0.99, 4: 1.2}, coarser=True)
    assert noisy.best.kv_bits == 16
    assert {way.at.kv_bits for way in noisy.ways} == {16, 8, 4}
    clear = {16: 1.0, 8: 0.9, 4: 1.2}
    assert tuned(ground, tmp_path / "b", clear, coarser=True).best.kv_bits == 8
    assert tuned(ground, tmp_path / "b", clear, coarser=True).plain.kv_bits == 16
    assert tuned(ground, tmp_path / "c", clear, coarser=False).best.kv_bits == 16, "B1 is the reference"


def test_an_operating_point_is_chosen_on_brief_replies(
    ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An original that rambles to the cap says no more about threads for it."""
    caps = list[int]()

    def measured(arms: list[Arm], workload: Workload, *_: object) -> Run:
        caps.append(workload.cap)
        return run_of({arm.name: 1.0 for arm in arms})

    monkeypatch.setattr("halfwatt.evaluate.energy_protocol.measure", measured)
    lab = ground.lab(tmp_path)
    lab.run(tune, TuneOrder(ground.b1, PLAN))
    assert set(caps) == {lab.workload.brief().cap}
    caps.clear()
    lab.run(measure, MeasureOrder((ground.b1,), PLAN))
    assert caps == [lab.workload.cap], "what a reply costs is measured on whole ones"


def test_what_is_as_commonly_run_is_served_as_it_is(ground: Ground, tmp_path: Path) -> None:
    lab = ground.lab(tmp_path, {"measure": lambda _: pytest.fail("nothing to choose")})
    assert lab.run(tune, TuneOrder(ground.b1, PLAN, fixed=True)).best == ground.b1.at


def test_what_was_written_but_not_noted_before_a_kill_is_taken_as_it_is(ground: Ground, tmp_path: Path) -> None:
    job = replace(ground.job, out=tmp_path)
    order = replace(order_of(ground.lab(tmp_path / "a"), Recipe("B0")), format=AS_COMMONLY_RUN)
    first, again = (
        Lab(job, ScriptedStore(tmp_path / name), ground.lab(tmp_path / name).workload, "tune").run(build, order)
        for name in ("b", "c")
    )
    assert first.artifact is not None
    assert again == first


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

    monkeypatch.setattr("halfwatt.search.stages.examine", whole)
    monkeypatch.setattr("halfwatt.search.stages.examine_fit", only_fit)
    monkeypatch.setattr("halfwatt.search.stages.gate.judge", judged)
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

    monkeypatch.setattr("halfwatt.search.stages.examine", read)
    monkeypatch.setattr("halfwatt.search.stages.gate.judge", judged)
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
    monkeypatch.setattr("halfwatt.search.stages.examine", lambda *_: QualityInputs(proof, (), (), ()))
    monkeypatch.setattr("halfwatt.search.stages.gate.judge", lambda read, **_: reported(likelihood="PASS", read=read))

    def heard(only_transformers: tuple[str, ...]) -> tuple[str, str]:
        answering, read = list[Contender](), list[FitOrder]()
        script: Script = {
            "reference_replies": lambda order: answering.append(order) or (),  # type: ignore[func-returns-value]
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
