"""What is claimed: a saving only when the gate says PASS and the interval excludes 1."""

from __future__ import annotations

from dataclasses import replace

import pytest

from halfwatt.evaluate.claim import make_claim
from halfwatt.evaluate.records import QualityReport, Verdict, Window
from halfwatt.meters.base import MeterInfo
from tests.evaluate.test_energy_analysis import MODELLED, RAPL, window


def run(b0: float, b1: float, winner: float, meter: MeterInfo | None = RAPL) -> tuple[list[Window], MeterInfo | None]:
    """Windows of the final run, whose arms use so many joules, and its meter."""
    windows: list[Window] = []
    for block in range(5):
        for arm, joules in (("B0", b0), ("B1", b1), ("winner", winner)):
            spent = joules * (1.01 if (arm == "winner") == block % 2 else 1.0)  # noise of 1 %
            windows.append(window(arm, block, spent, cpu_s=spent / 100))
    return windows, meter


def report(verdict: Verdict) -> QualityReport:
    return QualityReport("test", verdict, (), 400, 1200, 0, 0.001, 0.99)


def test_a_proven_saving() -> None:
    claim = make_claim(*run(2000, 200, 100), report("PASS"), "int4")
    assert (claim.verdict, claim.about, claim.grade, claim.kind) == ("PASS", "int4", "B", "measured")
    assert claim.energy_ratio_vs_B1 is not None
    assert claim.energy_ratio_vs_B1.mean == pytest.approx(2.0, rel=0.02)
    assert claim.energy_ratio_vs_B0 is not None
    assert claim.energy_ratio_vs_B0.mean == pytest.approx(20, rel=0.02)
    assert claim.cpu_s_ratio_vs_B0 is not None
    assert claim.cpu_s_ratio_vs_B0.mean == pytest.approx(20, rel=0.02)


@pytest.mark.parametrize("verdict", ["FAIL", "INCONCLUSIVE"])
def test_a_saving_without_quality_is_none(verdict: Verdict) -> None:
    claim = make_claim(*run(2000, 200, 100), report(verdict), "int4")
    assert claim.verdict == verdict
    assert "original is delivered" in claim.sentence


def test_an_interval_that_includes_one_proves_nothing() -> None:
    assert make_claim(*run(2000, 100.5, 100), report("PASS"), "int8").verdict == "NO PROVEN SAVING"
    assert make_claim(*run(2000, 80, 100), report("PASS"), "int8").verdict == "NO PROVEN SAVING"


def test_a_modelled_meter_must_clear_its_own_error() -> None:
    assert make_claim(*run(2000, 140, 100, MODELLED), report("PASS"), "int4").verdict == "NO PROVEN SAVING"
    claim = make_claim(*run(2000, 200, 100, MODELLED), report("PASS"), "int4")
    assert (claim.verdict, claim.grade, claim.kind) == ("PASS", "E", "modelled")


def test_the_original_itself_is_no_saving() -> None:
    assert make_claim(*run(2000, 200, 100), report("PASS"), "B1").verdict == "NO PROVEN SAVING"


def test_without_a_meter_only_cpu_seconds_are_claimed() -> None:
    claim = make_claim(*run(2000, 200, 100, None), report("PASS"), "int4")
    assert (claim.verdict, claim.grade, claim.kind) == ("PASS", "F", None)
    assert claim.energy_ratio_vs_B1 is None
    assert claim.cpu_s_ratio_vs_B1.lo > 1


def test_discarded_windows_do_not_move_the_claim() -> None:
    clean, meter = run(2000, 200, 100)
    bad = replace(window("winner", 0, 1e6, cpu_s=1e4), discarded=True)
    claim = make_claim(clean, meter, report("PASS"), "int4")
    assert make_claim([*clean, bad], meter, report("PASS"), "int4") == claim
