"""The gate's verdicts: what it sees, what it leaves open, and how often it is fooled."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmarks.gate_simulation import CASES, Case, passes
from halfwatt.core.errors import BadInput
from halfwatt.core.settings import Margins
from halfwatt.evaluate.gate import NOT_PASSED, judge, missed, statistical_checks, teacher_checks
from halfwatt.evaluate.records import QualityInputs, QualityReport, ScoredReply
from halfwatt.formats.artifact import Parity
from tests.support import example_replies as replies
from tests.support.example_replies import Damage

MANY = 700


def failed(report: QualityReport) -> set[str]:
    return {check.layer for check in report.checks if check.verdict == "FAIL"}


def test_a_candidate_that_differs_only_by_noise_passes() -> None:
    report = replies.report(replies.inputs(MANY))
    assert report.verdict == "PASS", [c for c in report.checks if c.verdict != "PASS"]
    assert {c.layer for c in report.checks} == {"G0", "G1", "G2", "G3", "G4", "G5", "G6", "G7"}


@pytest.mark.parametrize(
    ("damage", "layer"),
    [
        (Damage(nll=0.05), "G1"),
        (Damage(eos=-0.3), "G2"),
        (Damage(elsewhere=1.6), "G2"),
        (Damage(failing=0.1), "G3"),
        (Damage(longer=1.2), "G4"),
        (Damage(longer=0.75), "G4"),
        (Damage(wrong=0.5), "G5"),
        (Damage(dull=0.5), "G5"),
        (Damage(forgetful=0.3), "G6"),
        (Damage(elsewhere_asked=0.2), "G7"),
    ],
    ids=str,
)
def test_planted_damage_fails_in_its_own_layer(damage: Damage, layer: str) -> None:
    report = replies.report(replies.inputs(MANY, damage))
    assert report.verdict == "FAIL"
    assert layer in failed(report)
    assert failed(report) <= {layer, "G5"}  # words that go wrong show in G5 as well


def test_a_check_shows_its_estimate_beside_its_margin() -> None:
    check = next(c for c in replies.report(replies.inputs(MANY, Damage(nll=0.05))).checks if c.layer == "G1")
    assert check.estimate is not None
    assert check.estimate.lo < 0.05 < check.estimate.hi
    assert "0.0198" in check.margin


def test_replies_of_one_word_have_no_diversity_to_lose() -> None:
    """An intent, for one. Equal ones pass, and nothing is made up of what is not there."""
    base = replies.inputs(MANY)
    one = tuple(replace(r, text=r.text.split()[0]) for r in base.replies_ref)
    report = replies.report(replace(base, replies_ref=one, replies_cand=one))
    content = {c.name: c.verdict for c in report.checks if c.layer == "G5"}
    assert content == {"chrF to the human reply": "PASS", "diversity": "PASS"}


def test_too_few_dialogues_are_inconclusive_and_say_how_many_it_takes() -> None:
    report = replies.report(replies.inputs(40))
    assert report.verdict == "INCONCLUSIVE"
    needed = [c.n_needed for c in report.checks if c.verdict == "INCONCLUSIVE"]
    assert needed
    assert any(n is not None and n > 40 for n in needed)


@pytest.mark.parametrize("field", ["token_ids_equal", "template_equal", "eos_equal", "finite"])
def test_a_miss_of_g0_fails_and_nothing_else_is_looked_at(field: str) -> None:
    change: dict[str, Any] = {field: False}
    broken = replace(replies.FAITHFUL, **change)
    report = replies.report(replace(replies.inputs(MANY), parity=broken))
    assert report.verdict == "FAIL"
    assert {c.layer for c in report.checks} == {"G0"}


@pytest.mark.parametrize("change", [{"kl_mean": 2e-3}, {"top1": 0.98}, {"dialogues": 0}, {"tokens": 0}])
def test_an_export_that_is_not_the_model_fails(change: dict[str, Any]) -> None:
    parity: Parity = replace(replies.FAITHFUL, **change)
    assert replies.report(replace(replies.inputs(MANY), parity=parity)).verdict == "FAIL"


def test_no_data_never_passes() -> None:
    assert replies.report(QualityInputs(replies.FAITHFUL, (), (), ())).verdict == "FAIL"


def rambling(inputs: QualityInputs) -> QualityInputs:
    """The same beside a reference that says three and a half times as much as people do, and hardly ever stops."""
    rng = np.random.default_rng(5)

    def long(reply: ScoredReply) -> ScoredReply:
        more = rng.choice(replies.WORDS, round(2.5 * len(reply.text.split())))
        return replace(reply, text=" ".join([reply.text, *more]), tokens=round(3.5 * reply.tokens))

    endless = [replace(t, log_p_eos_ref=-3.0 * t.ends, p_eos_ref=0.2 * t.p_eos_ref) for t in inputs.teacher]
    teacher = tuple(replace(t, stay_ref=t.p_eos_ref) for t in endless)
    return replace(inputs, teacher=teacher, replies_ref=tuple(map(long, inputs.replies_ref)))


def test_who_stops_as_people_do_passes_beside_a_reference_that_rambles() -> None:
    inputs = rambling(replies.inputs(MANY))
    report = replies.report(inputs)
    beside = {c.name: c for c in report.checks if c.name in ("length, beside people's", "stopping, as people do")}
    assert {c.verdict for c in beside.values()} == {"PASS"}
    length, stopping = (beside[name].estimate for name in sorted(beside))
    assert length is not None
    assert stopping is not None
    assert 0.97 < length.mean < 1.03
    assert stopping.mean == pytest.approx(-2.7, abs=0.2)  # nats a reply: 3 - 0.3 at the ends
    as_read = replace(inputs, teacher=tuple(replace(t, stay_ref=None, stay_cand=None) for t in inputs.teacher))
    old = judge(as_read, split="test", margins=Margins(), special=(), seed=0, edition=1)
    assert {"G2", "G4"} <= failed(old)
    assert {c.layer for c in old.checks} == {"G0", "G1", "G2", "G3", "G4", "G5"}


def test_beside_a_reference_that_never_stops_what_ends_is_to_be_sound() -> None:
    """All of its replies fail; so a candidate that says nothing half of the time would fail no more often."""
    inputs = replies.inputs(MANY)
    endless = tuple(replace(r, stopped=False, tokens=r.cap) for r in inputs.replies_ref)
    mute = tuple(replace(r, text="") if n % 2 else r for n, r in enumerate(inputs.replies_cand))

    def asked(cand: tuple[ScoredReply, ...], edition: int) -> list[tuple[str, str]]:
        about = replace(inputs, replies_ref=endless, replies_cand=cand)
        report = judge(about, split="test", margins=Margins(), special=(), seed=0, edition=edition)
        return [(c.name, c.verdict) for c in report.checks if c.layer == "G3"]

    assert asked(mute, 2) == [("failures", "PASS")]
    twice = "failures", "failures beside running on"
    assert asked(mute, 3) == list(zip(twice, ("PASS", "FAIL"), strict=True))
    leaking = tuple(replace(r, leaked=1) for r in endless)
    assert asked(leaking, 3) == list(zip(twice, ("PASS", "FAIL"), strict=True))
    for sound in (inputs.replies_cand, endless):  # or does as the original does
        assert asked(sound, 3) == list(zip(twice, ("PASS", "PASS"), strict=True))


def diversity_of(inputs: QualityInputs, edition: int) -> dict[str, str]:
    report = judge(inputs, split="test", margins=Margins(), special=(), seed=0, edition=edition)
    return {c.name: c.verdict for c in report.checks if c.name in ("distinct-2", "bigram entropy")}


def test_diversity_is_compared_at_equal_length() -> None:
    """More words are followed by more different ones; and fewer of a loop's are new, which hides any dullness."""
    inputs, rng = replies.inputs(MANY), np.random.default_rng(5)

    def beside(says: Sequence[str], answers: Sequence[str]) -> QualityInputs:
        pairs = zip(inputs.replies_ref, says, inputs.replies_cand, answers, strict=True)
        both = [(replace(ref, text=a), replace(cand, text=b)) for ref, a, cand, b in pairs]
        return replace(inputs, replies_ref=tuple(ref for ref, _ in both), replies_cand=tuple(cand for _, cand in both))

    def drawn(words: int, of: int) -> list[str]:
        return [" ".join(f"{of}-{n}" for n in row) for row in rng.integers(0, of, (len(inputs.replies_ref), words))]

    said = [reply.text for reply in inputs.replies_ref]
    going_on = beside(drawn(84, 400), drawn(12, 400))
    assert diversity_of(going_on, 3) == {"distinct-2": "PASS", "bigram entropy": "FAIL"}
    assert diversity_of(going_on, 4) == {"distinct-2": "PASS", "bigram entropy": "PASS"}
    rich = drawn(12, 3000)
    dull = beside([" ".join([text] * 4) for text in rich], [rich[0], *rich[1::2], *rich[1::2]][: len(rich)])
    assert diversity_of(dull, 3)["distinct-2"] == "PASS"
    assert diversity_of(dull, 4)["distinct-2"] == "FAIL"
    brief = beside(said, [text.split()[0] for text in said])
    assert diversity_of(brief, 4)["distinct-2"] == "FAIL", "one word for everything"
    polite = "i can help you with that ."
    phrase = beside([f"{polite} {more}" for more in drawn(30, 3000)], [polite] * len(said))
    assert set(diversity_of(phrase, 4).values()) == {"FAIL"}, "and only what the original begins with"
    alike = beside([polite, *["yes it is"] * (len(said) - 1)], said)
    assert "bigram entropy" not in diversity_of(alike, 4), "nothing is divided by what should be 0"


def test_shorter_than_people_is_too_short_whatever_the_reference_does() -> None:
    inputs = rambling(replies.inputs(MANY))
    curt = tuple(replace(r, text=r.text[: len(r.text) // 2], tokens=r.tokens // 2) for r in inputs.replies_cand)
    report = replies.report(replace(inputs, replies_cand=curt))
    check = next(c for c in report.checks if c.layer == "G4")
    assert check.verdict == "FAIL"
    assert "over 0.9 of people's length" in check.margin


def test_as_long_as_people_where_the_reference_is_curt() -> None:
    inputs = replies.inputs(MANY)
    curt = tuple(replace(r, text=r.text[: len(r.text) // 3], tokens=r.tokens // 3) for r in inputs.replies_ref)
    check = next(c for c in replies.report(replace(inputs, replies_ref=curt)).checks if c.layer == "G4")
    assert (check.verdict, check.name) == ("PASS", "length, beside people's")


def test_fewer_stops_where_people_go_on_are_no_loss() -> None:
    report = replies.report(replies.inputs(MANY, Damage(elsewhere=0.4)))
    assert report.verdict == "PASS"
    assert "stopping, as people do" in {c.name for c in report.checks}


def test_an_original_that_says_nothing_that_people_say_has_no_nearness_to_lose() -> None:
    """As one that answers in another script, or that never ends thinking."""
    inputs = replies.inputs(MANY)
    mute = tuple(replace(r, text="") for r in inputs.replies_ref)
    checks = replies.report(replace(inputs, replies_ref=mute)).checks
    check = next(c for c in checks if c.name.startswith("chrF"))
    assert (check.layer, check.verdict, check.estimate) == ("G5", "PASS", None)
    assert "no nearness to lose" in check.detail


def test_without_values_there_is_nothing_to_carry() -> None:
    inputs = replies.inputs(MANY)
    report = replies.report(replace(inputs, facts=tuple(replace(f, values=()) for f in inputs.facts)))
    check = next(c for c in report.checks if c.layer == "G6")
    assert (check.verdict, check.estimate, report.verdict) == ("PASS", None, "PASS")
    assert "0 of 700 dialogues" in check.detail


def test_rare_values_are_weighed_by_replies() -> None:
    """Two values in a hundred replies: where one of 35 dialogues has three, that is a quarter of them."""
    inputs = replies.inputs(MANY)
    rare = tuple(f if n % 35 == 0 else replace(f, values=()) for n, f in enumerate(inputs.facts))
    check = next(c for c in replies.report(replace(inputs, facts=rare)).checks if c.layer == "G6")
    assert check.verdict == "PASS"
    assert "< 23.3%" in check.margin  # 0.02 * 700 replies / 60 values


def test_numbers_from_nowhere_are_told_and_decide_nothing() -> None:
    inputs = replies.inputs(MANY)
    lies = tuple(replace(r, text=f"{r.text} 77") for r in inputs.replies_cand)
    check = next(c for c in replies.report(replace(inputs, replies_cand=lies)).checks if c.layer == "G6")
    assert check.verdict == "PASS"
    assert "numbers that stand nowhere before: 700 of 2" in check.detail
    assert "the original's 0 of" in check.detail


def test_the_worse_of_original_and_people_is_the_measure_of_what_fits() -> None:
    """The judge takes one human reply in fifteen for another dialogue's, and as many of the candidate's."""
    inputs = replies.inputs(3 * MANY)

    def turned(log_p: tuple[float, ...], n: int) -> tuple[float, ...]:
        return (log_p[1], log_p[0], *log_p[2:]) if n % 15 == 0 else log_p

    alike = tuple(
        replace(f, people=turned(f.people, n), candidate=turned(f.candidate, n + 4)) for n, f in enumerate(inputs.fit)
    )
    assert replies.report(replace(inputs, fit=alike)).verdict == "PASS"
    alone = tuple(replace(f, candidate=turned(f.candidate, n)) for n, f in enumerate(inputs.fit))
    assert failed(replies.report(replace(inputs, fit=alone))) == {"G7"}


def test_half_of_the_five_percent_is_half_where_no_two_replies_differ() -> None:
    """Since edition 5; of 144 replies none is plainly another's, of anybody."""
    inputs = replies.inputs(144)
    verdicts = []
    for edition in (4, 5):
        checks = statistical_checks(inputs, Margins(), (), edition)
        verdicts.append(next(c.verdict for c in checks if c.name == "plainly another dialogue's"))
    assert verdicts == ["PASS", "INCONCLUSIVE"]


def test_where_the_original_was_not_asked_people_are_the_measure() -> None:
    """Of all that was asked; the original's replies are compared where there are any, and never guessed."""
    inputs = replies.inputs(3 * MANY)
    some = tuple(f if n < 100 else replace(f, reference=()) for n, f in enumerate(inputs.fit))
    checks = [c for c in replies.report(replace(inputs, fit=some)).checks if c.layer == "G7"]
    assert [c.verdict for c in checks] == ["PASS", "PASS"]
    assert {c.estimate.n for c in checks if c.estimate} == {3 * MANY}
    assert all(c.detail.endswith(f"of {3 * MANY} replies, the original's of 100") for c in checks)
    lost = tuple(f if n < 100 or n % 10 else replace(f, candidate=f.candidate[::-1]) for n, f in enumerate(some))
    worse = [c.verdict for c in replies.report(replace(inputs, fit=lost)).checks if c.layer == "G7"]
    assert worse[1] == "INCONCLUSIVE", "100 of the original's cannot show it, and people's show the opposite"
    none = tuple(replace(f, reference=()) for f in some)
    assert failed(replies.report(replace(inputs, fit=none))) == {"G7"}, "no data never passes"


@pytest.mark.parametrize("missing", [{"fit": ()}, {"facts": ()}])
def test_a_new_judgement_without_what_was_read_is_never_a_pass(missing: dict[str, Any]) -> None:
    assert replies.report(replace(replies.inputs(MANY), **missing)).verdict == "FAIL"


def test_one_in_ten_that_answers_another_dialogue_is_seen() -> None:
    assert failed(replies.report(replies.inputs(MANY, Damage(elsewhere_asked=0.1)))) == {"G7"}
    few = replies.report(replies.inputs(60, Damage(elsewhere_asked=0.1)))
    assert any("would prove" in c.detail or c.n_needed for c in few.checks if c.layer == "G7")
    assert few.verdict != "PASS"


def swapped(inputs: QualityInputs) -> QualityInputs:
    first, second, *rest = inputs.replies_cand
    return replace(inputs, replies_cand=(second, first, *rest))


@pytest.mark.parametrize(
    "spoil",
    [
        swapped,
        lambda x: replace(x, replies_cand=x.replies_cand[:-1]),
        lambda x: replace(x, replies_cand=(replace(x.replies_cand[0], seed=9), *x.replies_cand[1:])),
        lambda x: replace(x, teacher=(replace(x.teacher[0], nll_cand=math.nan), *x.teacher[1:])),
        lambda x: replace(x, teacher=(replace(x.teacher[0], p_eos_cand=math.inf), *x.teacher[1:])),
    ],
)
def test_what_is_not_paired_or_not_finite_raises(spoil: Callable[[QualityInputs], QualityInputs]) -> None:
    with pytest.raises(BadInput):
        replies.report(spoil(replies.inputs(60)))


def test_a_capped_reply_counts_as_the_cap() -> None:
    inputs = replies.inputs(MANY)
    endless = tuple(replace(r, stopped=False) if i % 10 == 0 else r for i, r in enumerate(inputs.replies_cand))
    report = replies.report(replace(inputs, replies_cand=endless))
    assert {"G3", "G4"} <= failed(report)


def test_the_users_own_limit_moves_g1_alone() -> None:
    inputs = replies.inputs(MANY, Damage(nll=0.03))
    assert failed(replies.report(inputs)) == {"G1"}
    assert replies.report(inputs, Margins().with_max_loss(0.05)).verdict == "PASS"


def test_the_same_inputs_give_the_same_report() -> None:
    inputs = replies.inputs(60)
    assert replies.report(inputs) == replies.report(inputs)


def test_a_candidate_exactly_at_the_margin_is_rarely_passed() -> None:
    """One-sided 5 % per layer: of 200 such candidates 10 are expected to pass G1; 20 would be 3 sigma too many."""
    teachers = [replies.inputs(80, Damage(nll=math.log(1.02)), seed).teacher for seed in range(200)]
    passed = [teacher_checks(teacher, Margins())[0].verdict for teacher in teachers].count("PASS")
    assert passed <= 19


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.null], ids=lambda case: f"{case.rule} {case.candidate}"
)
def test_a_rule_with_two_measures_is_not_fooled_more_often(case: Case) -> None:
    """Where people are a measure beside the original, both at their margins."""
    assert passes(case, 100, 200) <= 19 / 200


def test_how_far_a_check_is_missed_is_told_in_margins() -> None:
    """So that a search can rank those that do not pass, whatever they miss."""
    assert missed(replies.report(replies.inputs(MANY)).checks) == 0.0
    near, far = (missed(replies.report(replies.inputs(MANY, Damage(nll=nats))).checks) for nats in (0.03, 0.06))
    assert near == pytest.approx(0.03 / math.log(1.02) - 1, abs=0.4)
    assert far == pytest.approx(0.06 / math.log(1.02) - 1, abs=0.4)
    broken = replace(replies.FAITHFUL, finite=False)
    assert missed(replies.report(replace(replies.inputs(MANY), parity=broken)).checks) == NOT_PASSED
