"""The gate's verdicts: what it sees, what it leaves open, and how often it is fooled."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from halfwatt.core.errors import BadInput
from halfwatt.core.settings import Margins
from halfwatt.evaluate.gate import teacher_checks
from halfwatt.evaluate.records import QualityInputs, QualityReport
from halfwatt.formats.artifact import Parity
from tests.support import example_replies as replies
from tests.support.example_replies import Damage

MANY = 700


def failed(report: QualityReport) -> set[str]:
    return {check.layer for check in report.checks if check.verdict == "FAIL"}


def test_a_candidate_that_differs_only_by_noise_passes() -> None:
    report = replies.report(replies.inputs(MANY))
    assert report.verdict == "PASS", [c for c in report.checks if c.verdict != "PASS"]
    assert {c.layer for c in report.checks} == {"G0", "G1", "G2", "G3", "G4", "G5"}


@pytest.mark.parametrize(
    ("damage", "layer"),
    [
        (Damage(nll=0.05), "G1"),
        (Damage(eos=-0.3), "G2"),
        (Damage(elsewhere=1.6), "G2"),
        (Damage(elsewhere=0.4), "G2"),
        (Damage(failing=0.1), "G3"),
        (Damage(longer=1.2), "G4"),
        (Damage(longer=0.75), "G4"),
        (Damage(wrong=0.5), "G5"),
        (Damage(dull=0.5), "G5"),
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
