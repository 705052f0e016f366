"""Which candidate wins, and which operating points are tried."""

from __future__ import annotations

from dataclasses import replace

import pytest

from halfwatt.accounting import cpu_s_per_reply
from halfwatt.estimate import Estimate
from halfwatt.meters import modelled
from halfwatt.records import OperatingPoint, QualityReport, Trial, Verdict
from halfwatt.search import best, cost_of, operating_points


def trial(name: str, saving: float, verdict: Verdict | None = "PASS", lo: float | None = None) -> Trial:
    ratio = Estimate(saving, saving * 0.9 if lo is None else lo, saving * 1.1, "x", 5)
    quality = None if verdict is None else QualityReport("tune", verdict, (), 300, 900, 0, None, None)
    status = "failed" if verdict is None else "done"
    return Trial(name, (), status, None, None, OperatingPoint(), None, quality, ratio, ratio)  # type: ignore[arg-type]


def test_the_largest_saving_that_passes_wins() -> None:
    assert best([trial("int8", 1.4), trial("int4", 2.0)]).name == "int4"  # type: ignore[union-attr]


def test_a_pass_goes_before_what_is_undecided() -> None:
    assert best([trial("int8", 1.4), trial("int4", 2.0, "INCONCLUSIVE")]).name == "int8"  # type: ignore[union-attr]
    assert best([trial("int4", 2.0, "INCONCLUSIVE")]).name == "int4"  # type: ignore[union-attr]


@pytest.mark.parametrize("bad", [trial("int4", 2.0, "FAIL"), trial("int4", 1.1, lo=0.98), trial("int4", 2.0, None)])
def test_what_fails_saves_nothing_or_was_never_made_cannot_win(bad: Trial) -> None:
    assert best([bad]) is None
    assert best([bad, trial("int8", 1.2)]).name == "int8"  # type: ignore[union-attr]


def test_an_operating_point_is_chosen_by_what_was_measured() -> None:
    counter = replace(modelled.INFO, name="rapl", kind="measured", grade="B")
    assert cost_of(None) is cost_of(modelled.INFO) is cpu_s_per_reply
    assert cost_of(counter) is not cpu_s_per_reply


@pytest.mark.parametrize("cores", [1, 2, 4, 64])
def test_operating_points_are_few_distinct_and_fit_the_machine(cores: int) -> None:
    points = operating_points(cores)
    assert len(set(points)) == len(points) <= 6
    assert all(1 <= (p.threads or 0) <= cores and 1 <= (p.threads_prefill or 0) <= cores for p in points)
    assert OperatingPoint(threads=1, threads_prefill=1) in points
    assert OperatingPoint(threads=cores, threads_prefill=cores) in points
