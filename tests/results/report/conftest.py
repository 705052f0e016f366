"""Results for every way in which a run can end, and their pages."""

from __future__ import annotations

import pytest

from halfwatt.evaluate.records import ClaimVerdict
from halfwatt.results.report.html import render_html
from halfwatt.results.result import Result
from tests.support import example_results as examples

CASES: dict[str, tuple[examples.Energy, ClaimVerdict]] = {
    "modelled": ("modelled", "PASS"),
    "measured": ("measured", "PASS"),
    "no meter": ("none", "PASS"),
    "no proven saving": ("modelled", "NO PROVEN SAVING"),
    "fail": ("measured", "FAIL"),
    "inconclusive": ("modelled", "INCONCLUSIVE"),
}


@pytest.fixture(scope="session")
def results() -> dict[str, Result]:
    return {case: examples.make(*ending) for case, ending in CASES.items()}


@pytest.fixture(scope="session")
def pages(results: dict[str, Result]) -> dict[str, str]:
    return {case: render_html(result) for case, result in results.items()}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)
