from __future__ import annotations

import re
from dataclasses import replace

from halfwatt.formats.artifact import Part
from halfwatt.results.report.figures import Plot, figures
from halfwatt.results.result import Result
from tests.support import example_results as examples


def drawn(result: Result) -> dict[str, Plot]:
    return {plot.title: plot for plot in figures(result)}


def test_what_there_is_nothing_to_draw_of_comes_last_with_its_reason(results: dict[str, Result]) -> None:
    plots = figures(results["no meter"])
    missing = [plot for plot in plots if plot.svg is None]
    assert plots[-len(missing) :] == missing
    assert [plot.title for plot in missing] == [
        "Energy per reply against B1",
        "Light use: joules per reply with idle",
    ]
    assert all("not shown: there is no energy number without a meter" in plot.caption for plot in missing)


def test_from_when_on_it_is_repaid_is_drawn(results: dict[str, Result]) -> None:
    title = "When it is repaid"
    plot = drawn(results["modelled"])[title]
    assert plot.svg is not None
    assert "int4 begins with the 3,900 CPU-seconds that finding it took, all training included" in plot.caption
    assert title not in drawn(results["no proven saving"]), "B1 was there already"
    ledger = results["modelled"].repaid
    assert ledger is not None
    never = drawn(replace(results["modelled"], repaid=replace(ledger, replies=None)))[title]
    assert never.svg is None
    assert never.caption == "\N{EN DASH} not shown: no saving is certain."


def test_a_rejected_candidate_stands_in_the_ladder_between_what_was_dearer_and_cheaper(
    results: dict[str, Result],
) -> None:
    plot = figures(results["modelled"])[0]
    assert plot.svg is not None
    names = [name for name in re.findall(r">([^<>]+)</text>", plot.svg) if name in examples.ARMS]
    assert names == ["B0", "int8", "int6", "int4 + int8 head", "int4", "B1"], "the last is the line at 1"


def test_the_blocks_of_a_deep_network_are_drawn_together(results: dict[str, Result]) -> None:
    result = results["modelled"]
    blocks = tuple(Part(f"block {i}, FFN", "int8" if i < 2 else "int4", 1000, 1000) for i in range(30))
    deep = tuple(
        replace(t, artifact=replace(t.artifact, parts=(*blocks, Part("head", "int8", 9000, 9000))))
        if t.artifact is not None and t.name == "int4"
        else t
        for t in result.trials
    )
    plot = drawn(replace(result, trials=deep))["What int4 reads for each token"]
    assert plot.svg is not None
    names = re.findall(r">([^<>]+)</text>", plot.svg)
    assert {"2 blocks, FFN", "28 blocks, FFN", "head", "int4, 28 kB", "int8, 9 kB"} <= set(names)
