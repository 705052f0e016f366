"""At which threshold a student is put in front of its original: what the gate would read, and what is tried."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from halfwatt.core.errors import BadInput
from halfwatt.core.estimate import Estimate
from halfwatt.dialogues.dialogue import Dialogue, DialogueSet, Message
from halfwatt.dialogues.splits import SealedSplit
from halfwatt.evaluate import requests
from halfwatt.evaluate.records import Fit, Mixed, QualityInputs, QualityReport, ScoredReply, TeacherScore, Verdict
from halfwatt.formats.artifact import Parity
from halfwatt.meters.cost import Cost
from halfwatt.runtimes.cascade import Cascade
from halfwatt.search import cascade
from halfwatt.search.candidate import CandidateResult
from halfwatt.search.cascade import CascadeOrder, Kinds, routed, surprisals_of, try_cascades
from halfwatt.search.job import OtherKind
from halfwatt.search.judgement import Judgement, JudgeOrder
from halfwatt.search.lab import Contender
from halfwatt.search.optimize import Selection, _prove, best
from halfwatt.search.trial import Trial, TrialReadings
from tests.search.conftest import PLAIN, Ground
from tests.support.scripted_lab import saves

PARITY = Parity(1, 9, True, True, True, True, 0.0, 0.0, 1.0)


def score(name: str) -> TeacherScore:
    ends = {"ends": 1, "log_p_eos_ref": -0.1, "log_p_eos_cand": -0.4, "elsewhere": 4, "p_eos_ref": 0.1}
    stays = {"p_eos_cand": 0.3, "stay_ref": 0.2, "stay_cand": 0.5, "kl": 1.0, "kl_max": 0.5, "top1_same": 3}
    return TeacherScore(name, 5, 10.0, 14.0, **ends, **stays)  # type: ignore[arg-type]


def reply(dialogue: str, turn: int, who: str) -> ScoredReply:
    return ScoredReply(dialogue, turn, None, who, 2, True, 9, "people")


INPUTS = QualityInputs(
    PARITY,
    tuple(map(score, "abc")),
    tuple(reply(d, t, "original") for d in "abc" for t in (1, 3)),
    tuple(reply(d, t, "student") for d in "abc" for t in (1, 3)),
    (),
    (Fit("a", 1, (1.0,), (2.0,), (3.0,)), Fit("c", 3, (1.0,), (2.0,), (3.0,)), Fit("c", 1, (1.0,), (), (3.0,))),
)
SURPRISALS = {("a", 1): 0.1, ("a", 3): 0.2, ("b", 1): 0.3, ("b", 3): 0.9, ("c", 1): 0.8, ("c", 3): 0.7}


def test_what_surprises_more_is_answered_by_the_original() -> None:
    mixed = routed(INPUTS, SURPRISALS, 0.5)
    assert [r.text for r in mixed.replies_cand] == ["student"] * 3 + ["original"] * 3
    assert [r.text for r in mixed.replies_ref] == ["original"] * 6
    assert [(s.nll_cand, s.log_p_eos_cand, s.p_eos_cand, s.stay_cand, s.kl) for s in mixed.teacher] == [
        (14.0, -0.4, 0.3, 0.5, 1.0),
        (14.0, -0.4, 0.3, 0.5, 1.0),
        (10.0, -0.1, 0.1, 0.2, 0.0),
    ]
    assert [(f.dialogue, f.turn, f.candidate) for f in mixed.fit] == [("a", 1, (3.0,)), ("c", 3, (2.0,))]


def test_the_ends_of_the_range() -> None:
    assert routed(INPUTS, SURPRISALS, 1.0) == INPUTS
    nobody = routed(INPUTS, SURPRISALS, 0.0)
    assert [r.text for r in nobody.replies_cand] == ["original"] * 6
    assert all(s.nll_cand == s.nll_ref for s in nobody.teacher)


@pytest.mark.parametrize(
    ("own", "other", "expected"),
    [
        ("PASS", "PASS", "PASS"),
        ("PASS", "FAIL", "FAIL"),
        ("INCONCLUSIVE", "PASS", "INCONCLUSIVE"),
        ("FAIL", "PASS", "FAIL"),
    ],
)
def test_both_kinds_have_to_hold(own: Verdict, other: Verdict, expected: Verdict) -> None:
    reports = [QualityReport("tune", verdict, (), 100, 100, 0, None, None) for verdict in (own, other)]
    ratio = Estimate(4.0, 3.5, 4.5, "x", 5)
    trial = Trial("c", (), "done", None, None, PLAIN, None, reports[0], ratio, ratio)
    trial = replace(trial, mixed=Mixed(0.2, 0.5, ((0.1, 0.9), (0.9, 0.8)), reports[1]))
    assert trial.verdict == expected
    assert (best([trial]) is None) == (expected == "FAIL")
    assert trial.mixed is not None
    assert trial.mixed.asked == (0.5, 1.0)


def strangers(count: int) -> DialogueSet:
    """Nothing like what the student was taught."""
    said = (f"Qu'est-ce qu'il y a au menu no {n}?" for n in range(count))
    talks = (Dialogue(f"s{n}", (Message("user", q), Message("assistant", "Du poisson."))) for n, q in enumerate(said))
    return DialogueSet.of(talks, split="tune", licence="")


def student_of(ground: Ground, verdict: Verdict) -> CandidateResult:
    """B1 itself, said to have been taught, and to save ten times."""
    artifact = replace(ground.b1.artifact, spent=(Cost(tokens=9, cpu_s=1.0, device="cpu"),))
    report, saving = QualityReport("tune", verdict, (), 10, 10, 0, None, None), Estimate(10.0, 9.0, 11.0, "x", 5)
    trial = Trial("student", (), "done", None, artifact, PLAIN, None, report, saving, saving)
    replies = tuple(
        ScoredReply(d.id, turn, None, "On.", 3, True, 24, d.messages[turn].content)
        for d in ground.job.tune.dialogues
        for turn in d.assistant_turns
    )
    return CandidateResult(trial, TrialReadings("student", (), QualityInputs(PARITY, (), replies, replies)), saving)


@pytest.fixture(autouse=True)
def _few_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "LEAST_OF_A_KIND", 2)


def kinds_of(ground: Ground, folder: Path, verdict: Callable[[JudgeOrder], Verdict]) -> Kinds:
    """Nothing is measured or judged: what was built saves four times, and ``verdict`` says what the gate says."""

    def judged(order: JudgeOrder) -> Judgement:
        report = QualityReport("tune", verdict(order), (), 10, 10, 0, None, None)
        read = student_of(ground, "PASS").readings.quality_inputs
        assert read is not None
        return Judgement(read, report)

    lab = ground.lab(folder, {"measure": saves(4.0), "judge": judged})
    other = OtherKind(strangers(8), SealedSplit(strangers(8), folder / "other-seal"), 0.3)
    job = replace(lab.job, out=folder, other=other, test=SealedSplit(lab.job.tune, folder / "seal"))
    return Kinds.of(job, lab.store, other, replace(lab, job=job))


def test_the_cheapest_that_passes_is_the_last_that_is_tried(
    ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cascade, "_verdict", lambda *_: "PASS")
    tried = list[str]()

    def verdict(order: JudgeOrder) -> Verdict:
        """The student alone fails, and so does the first that is put in front of the original."""
        name = order.candidate.name
        tried.extend([name] if name != "student" and name not in tried else [])
        return "PASS" if len(tried) > 1 else "FAIL"

    kinds = kinds_of(ground, tmp_path, verdict)
    results = try_cascades(kinds, ground.b1, [student_of(ground, "FAIL")])
    assert [result.trial.verdict for result in results] == ["FAIL", "PASS"]
    limits = [result.trial.mixed.nats_per_byte for result in results if result.trial.mixed]
    assert limits[0] > limits[1], "the cheaper first: its student answers more"
    for result in results:
        artifact, mixed = result.trial.artifact, result.trial.mixed
        assert artifact is not None
        assert mixed is not None
        assert artifact.parity is not None
        router = Cascade.read(artifact).router
        assert mixed.surprisals[0] == tuple(surprisals_of(router, kinds.own.workload).values())
        assert mixed.asked[0] < 0.6
        assert mixed.asked[1] == 1.0, "nothing of the other kind is like what was taught"
    resumed = kinds_of(ground, tmp_path, lambda _: pytest.fail("it was judged"))
    assert try_cascades(resumed, ground.b1, [student_of(ground, "FAIL")]) == results


def test_who_was_not_taught_or_saves_nothing_leads_none(ground: Ground, tmp_path: Path) -> None:
    kinds = kinds_of(ground, tmp_path, lambda _: pytest.fail("nobody is judged"))
    student = student_of(ground, "PASS")
    assert student.trial.artifact is not None
    untaught = replace(student.trial, artifact=replace(student.trial.artifact, spent=()))
    others = [
        replace(student, trial=untaught),
        replace(student, saving=Estimate(0.9, 0.8, 1.0, "x", 5)),
        replace(student, readings=replace(student.readings, quality_inputs=None)),
        replace(student, trial=replace(student.trial, status="rejected")),
    ]
    assert try_cascades(kinds, ground.b1, others) == []


def test_a_mixture_has_both_in_their_shares(ground: Ground, tmp_path: Path) -> None:
    kinds = kinds_of(ground, tmp_path, lambda _: "PASS")
    own, other = len(kinds.own.workload.dialogues), len(kinds.other.workload.dialogues)
    mixed = kinds.mixed.workload.dialogues
    count = sum(d.source == "other" for d in mixed)
    assert (own, other) == (10, 8)
    assert (len(mixed), count) == (14, 4)
    assert len({d.id for d in mixed}) == len(mixed)


def test_too_few_of_a_kind_are_refused_with_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "LEAST_OF_A_KIND", 14)
    assert requests.mixture(1000, 200, 0.2) == (800, 200)
    assert requests.mixture(55, 900, 0.2) == (55, 14)
    found = r"found: 53 of your own and 900 others leave 53 and 13\); give more dialogues: 14 of each"
    with pytest.raises(BadInput, match=found):
        requests.mixture(53, 900, 0.2)


def test_the_sealed_verdict_is_on_both_kinds_and_its_figures_on_their_mixture(
    ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was chosen meets B1 on the mixture of both sealed splits, which are opened for it."""
    monkeypatch.setattr(cascade, "_verdict", lambda *_: "PASS")
    kinds = kinds_of(ground, tmp_path, lambda _: "PASS")
    job = kinds.own.job
    (chosen,) = try_cascades(kinds, ground.b1, [student_of(ground, "FAIL")])
    b1 = Trial("B1", (), "done", None, ground.b1.artifact, PLAIN, None, None)
    outcome = _prove(job, kinds.own.store, Selection(None, b1, (chosen,), chosen.trial), ())
    assert outcome.claim.verdict == "PASS"
    assert outcome.claim.about == outcome.delivered.name == chosen.trial.name
    assert outcome.mixed is not None
    assert outcome.mixed.quality.verdict == "PASS"
    assert outcome.other is not None
    assert outcome.traffic.of_two_kinds
    assert {d.source for d in outcome.traffic.dialogues} == {"own", "other"}
    assert job.other is not None
    assert job.other.test.seal.exists()
    with pytest.raises(BadInput, match="was opened already"):
        job.other.test.open("another")


def test_without_a_cascade_the_final_run_is_on_the_users_own_traffic(ground: Ground, tmp_path: Path) -> None:
    """None passed: nothing of the other kind is opened, and no figure is of a mixture."""
    kinds = kinds_of(ground, tmp_path, lambda _: "PASS")
    b1 = Trial("B1", (), "done", None, ground.b1.artifact, PLAIN, None, None)
    outcome = _prove(kinds.own.job, kinds.own.store, Selection(None, b1, (), b1), ())
    assert outcome.claim.verdict == "NO PROVEN SAVING"
    assert (outcome.mixed, outcome.other, outcome.traffic.of_two_kinds) == (None, None, False)
    assert kinds.own.job.other is not None
    assert not kinds.own.job.other.test.seal.exists()


def test_it_is_whole_or_not_there(ground: Ground, tmp_path: Path) -> None:
    """With its parity record, whenever it is killed."""
    kinds = kinds_of(ground, tmp_path, lambda _: "PASS")
    student = Contender.of(student_of(ground, "PASS").trial)
    artifact = cascade.cascade(kinds.own, CascadeOrder(student, ground.b1, 0.5, ""))
    assert artifact.parity is not None
    assert cascade.cascade(kinds.own, CascadeOrder(student, ground.b1, 0.5, "")) == artifact
