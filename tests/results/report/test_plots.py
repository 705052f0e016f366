from __future__ import annotations

import re
from dataclasses import replace

from halfwatt.core.estimate import Estimate
from halfwatt.results.report import plots
from halfwatt.results.report.html import render_html
from halfwatt.results.result import Result
from tests.support.html_page import Page


def test_plots_take_the_colours_and_font_of_the_page(pages: dict[str, str]) -> None:
    drawings = re.findall(r"<svg.*?</svg>", pages["measured"], flags=re.DOTALL)
    assert len(drawings) == 9
    ids = [i for drawing in drawings for i in re.findall(r'\bid="([^"]+)"', drawing)]
    assert len(ids) == len(set(ids))
    for drawing in drawings:
        assert "var(--" in drawing
        assert not re.search(r"#[0-9a-f]{6}\b", drawing.replace('href="#', "")), "a colour of its own"
        assert "DejaVu" not in drawing
        assert "<text" in drawing


def test_a_hostile_trial_name_stays_text(results: dict[str, Result]) -> None:
    result = results["modelled"]
    bad = replace(result.trials[0], name="<script>alert(3)</script> $x^2$")
    page = Page(render_html(replace(result, trials=(bad, *result.trials[1:]))))
    assert "script" not in {tag for tag, _ in page.tags}
    assert page.text.count("<script>alert(3)") >= 3, "folded in the plots"
    assert "$x^2$" in page.text


def test_a_long_name_is_folded(results: dict[str, Result]) -> None:
    long = "a model with a name that goes on and on, quantize bits 4, and so forth"
    result = results["modelled"]
    renamed = tuple(replace(t, name=long) if t.name == result.claim.about else t for t in result.trials)
    page = render_html(replace(result, trials=renamed, winner=long, claim=replace(result.claim, about=long)))
    names = [text for text in re.findall(r"<text[^>]*>([^<]*)</text>", page) if text.startswith("a model")]
    assert sorted(map(len, names)) == [14, 14, 14, 14, len(long)], "whole only above the time line, where there is room"


def test_an_interval_that_reaches_zero_can_be_drawn() -> None:
    wide = Estimate(0.02, -0.01, 0.05, "CPU-s/reply", 2)
    assert "<svg" in plots.ladder([plots.Mark("B0", plots.OTHER, False, wide)], "CPU-ms per reply")
