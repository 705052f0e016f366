from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from halfwatt.core.estimate import Estimate
from halfwatt.results.report import console, formatting
from halfwatt.results.report.card import model_card
from halfwatt.results.report.html import render_html
from halfwatt.results.result import Result
from halfwatt.results.tables import explained, rows
from halfwatt.runtimes.base import OperatingPoint, Speculation
from tests.support.terminal import plain


@pytest.mark.parametrize(
    ("estimate", "value", "interval"),
    [
        (Estimate(20.3812, 13.59, 30.57, "", 7), "20", "14 to 31"),
        (Estimate(1.9993, 1.9782, 2.0203, "", 7), "2.00", "1.98 to 2.02"),
        (Estimate(0.4561, 0.304, 0.687, "", 7), "0.46", "0.30 to 0.69"),
        (Estimate(-0.012, -0.025, 0.001, "", 7), "\N{MINUS SIGN}0.012", "\N{MINUS SIGN}0.025 to 0.001"),
        (Estimate(28.1, 28.1, 28.1, "", 7), "28.1", "28.1 to 28.1"),
        (Estimate(0.0001, -0.004, 0.004, "", 7), "0.000", "\N{MINUS SIGN}0.004 to 0.004"),
        (Estimate(1234.4, 1200.0, 1270.0, "", 7), "1,234", "1,200 to 1,270"),
    ],
)
def test_numbers_show_no_more_digits_than_they_have(estimate: Estimate, value: str, interval: str) -> None:
    shown = formatting.figure(estimate, "measured")
    assert (shown.value, shown.interval) == (value, interval)


def test_a_figure_that_never_varied_can_be_shown() -> None:
    assert formatting.figure(Estimate(0.0, 0.0, 0.0, "nats", 9), "nats").value.startswith("0")


def test_absent_is_a_dash_with_its_reason() -> None:
    shown = formatting.absent("no meter")
    assert shown.absent
    assert shown.line == "\N{EN DASH} (no meter)"


def test_energy_is_joules_where_they_may_be_stated_and_a_share_of_b1_where_not(results: dict[str, Result]) -> None:
    energy = {
        case: {row.trial.name: formatting.energy(row).line for row in rows(results[case])}
        for case in ("modelled", "measured", "no meter")
    }
    assert energy["modelled"]["B1"] == "1 E modelled"
    assert energy["modelled"]["int4"] == "0.46 [0.31 to 0.69] E modelled"
    assert energy["measured"]["int4"] == "0.501 [0.497 to 0.504] B"
    assert energy["no meter"]["int4"] == "\N{EN DASH} (no meter)"
    assert energy["measured"]["int2"] == "\N{EN DASH} (failed)"


def test_the_headline_names_both_baselines(results: dict[str, Result]) -> None:
    lines = [(quantity, base, figure.line) for quantity, base, figure in formatting.ratios(results["measured"].claim)]
    assert lines == [
        ("energy", "B1", "2.14 [2.12 to 2.16] B"),
        ("energy", "B0", "12.08 [12.02 to 12.14] B"),
        ("CPU time", "B1", "2.00 [1.98 to 2.02] measured"),
        ("CPU time", "B0", "22.97 [22.86 to 23.08] measured"),
    ]
    assert [figure.absent for _, _, figure in formatting.ratios(results["no meter"].claim)] == [
        True,
        True,
        False,
        False,
    ]


def test_the_exact_checks_of_the_gate_fold_into_one_line_when_all_hold(results: dict[str, Result]) -> None:
    report = results["modelled"].final_quality
    assert report is not None
    lines = formatting.gate_lines(report)
    assert [check.layer for check, _, _ in lines] == ["G0", "G1", "G2", "G3", "G4", "G5", "G6", "G7"]
    assert lines[0][0].name == "integrity, 3 exact checks"
    assert lines[0][1].absent
    assert lines[3][1].line == "0.1 [\N{MINUS SIGN}0.4 to 0.7] %", "a share in per cent"
    broken = replace(report, checks=(replace(report.checks[0], verdict="FAIL"), *report.checks[1:]))
    assert [check.layer for check, _, _ in formatting.gate_lines(broken)].count("G0") == 3


@pytest.mark.parametrize(
    ("at", "words"),
    [
        (OperatingPoint(), "default threads"),
        (OperatingPoint(threads=1, threads_prefill=1), "1 thread"),
        (OperatingPoint(threads=2, threads_prefill=4), "2 threads, prefill 4"),
        (OperatingPoint(threads=1, batch=3, kv_bits=8), "1 thread, 3 at once, 8-bit cache"),
        (
            OperatingPoint(threads=1, speculation=Speculation("table", 3)),
            "1 thread, guesses up to 3 tokens ahead by its table of drafts",
        ),
        (
            OperatingPoint(threads=1, speculation=Speculation("lookup")),
            "1 thread, guesses up to 4 tokens ahead by what stood in the dialogue",
        ),
    ],
)
def test_an_operating_point_in_words(at: OperatingPoint, words: str) -> None:
    assert formatting.operating_point(at) == words


def test_a_saving_is_shown_with_what_it_comes_from(results: dict[str, Result]) -> None:
    """Replies three times shorter, where people's are twice as short: so much of it counts; on every form of it."""
    result, inputs = results["modelled"], results["modelled"].raw.quality_inputs
    assert inputs is not None
    (like,) = inputs.replies_ref
    theirs = tuple(replace(like, dialogue=f"d{n}", text="x" * 90, tokens=30, reference="y" * 45) for n in range(40))
    ours = tuple(replace(reply, text="x" * 30, tokens=10) for reply in theirs)
    planted = replace(inputs, replies_ref=theirs, replies_cand=ours)
    shown = replace(result, raw=replace(result.raw, quality_inputs=planted))
    saving = explained(shown)
    assert saving is not None
    assert saving.fewer_tokens.mean == pytest.approx(3)
    assert saving.counted.mean == pytest.approx(2 * saving.a_token.mean)
    texts = (plain(console.result_view(shown, Path("out")), 120), render_html(shown), model_card(shown))
    for text in texts:
        assert "fewer tokens a reply" in " ".join(text.split())
    about_b1 = replace(shown, claim=replace(shown.claim, about=shown.baselines.B1.name))
    assert formatting.causes(explained(about_b1)) == ()
