from __future__ import annotations

import re
from dataclasses import replace

import pytest

from halfwatt.results.report import formatting
from halfwatt.results.report.html import render_html, word_differences
from halfwatt.results.result import Result
from tests.support.html_page import Page


def test_the_page_asks_nobody_for_anything(pages: dict[str, str], case: str) -> None:
    page = Page(pages[case])
    fetching = {"script", "link", "iframe", "img", "image", "object", "embed", "video", "audio", "base", "form"}
    assert not fetching & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert name not in ("src", "srcset", "action", "data", "onload", "onerror", "onclick"), (tag, name)
            if name.endswith("href"):
                assert (value or "").startswith("#")
            assert not re.search(r"url\((?!#)|https?:|//", value or ""), (tag, name, value)
    assert not re.search(r"url\(|@import|https?:", page.styles)
    assert pages[case].lower().count("<!doctype") == 1
    assert "<?xml" not in pages[case]
    assert pages[case].count("http") == 1  # in a hostile reply, as text


def test_every_number_carries_its_origin(pages: dict[str, str], results: dict[str, Result], case: str) -> None:
    page, result = Page(pages[case]), results[case]
    numbers = [a for tag, a in page.tags if "num" in (a.get("class") or "").split()]
    assert len(numbers) > 20
    assert all(a["data-origin"] for a in numbers)
    grades = {a["data-grade"] for a in numbers if "data-grade" in a}
    assert grades == ({result.claim.grade} if result.claim.grade != "F" else set())
    badges = sum((a.get("class") or "") == "grade" for _, a in page.tags)
    delivered = 1
    assert badges == sum("data-grade" in a for a in numbers) + delivered
    assert formatting.origin_line(result.meters[0] if result.meters else None) in page.text


def test_a_number_of_energy_is_always_graded(pages: dict[str, str]) -> None:
    for case in ("modelled", "measured"):
        cells = re.findall(r'<td class="right" data-label="(?:J/reply|energy[^"]*)">(.*?)</td>', pages[case])
        assert cells
        for cell in cells:
            assert "data-grade" in cell or "\N{EN DASH}" in cell


def test_the_page_says_how_it_ended(pages: dict[str, str], results: dict[str, Result], case: str) -> None:
    words, claim = Page(pages[case]).words, results[case].claim
    assert claim.verdict in words
    assert ("not claimed as a saving" in words) == (claim.verdict != "PASS")
    assert not re.search(r"\b(nan|None|Undefined)\b", words)
    for heading in ("Per reply", "The quality gate", "Replies, side by side", "Meters not available here"):
        assert heading in words
    assert "prompts of 96 tokens (95 %: 310), 41% of them from the turns before" in words
    assert "What a reply takes, as a share of one thread" in words
    assert "threads that read the prompt" in words
    assert "kB of weights read for each token" in words
    assert "B1 block 4, replyforeign CPU load 12% of the machinediscarded" in words, "the cells of a row"
    assert words.count("foreign CPU load 12% of the machinediscarded") == 2
    assert "no battery in /sys/class/power_supply" in words


def test_joules_are_stated_only_where_a_meter_read_them(pages: dict[str, str]) -> None:
    assert "J/reply" in pages["measured"]
    assert "41.6" in Page(pages["measured"]).text  # at 1000 replies an hour idle is nearly everything
    for case in ("modelled", "no meter"):
        text = Page(pages[case]).text
        assert "J/reply" not in text
        assert not re.search(r"\d J\b", text)
        assert "Joules per reply at light use" not in text
    assert "a model has no idle to read" in pages["modelled"]
    assert "there is no energy number without a meter" in pages["no meter"]


def test_what_training_cost_and_what_was_lost_elsewhere_is_told(pages: dict[str, str]) -> None:
    words = Page(pages["modelled"]).words
    assert "int4: trained on 2,100,000 tokens, 1,400 CPU-s; repaid after" in words
    assert "service: FAIL on 400 dialogues" in words
    assert "same top token 94%" in words
    assert "service" not in Page(pages["no proven saving"]).text, "B1 itself was trained for nothing"


def test_the_gate_is_listed_with_its_bounds(pages: dict[str, str]) -> None:
    words = Page(pages["inconclusive"]).words
    assert "needs about 640 dialogues" in words
    assert words.count("token ids as the reference's") == 1  # the exact checks fold into one line
    assert "0.1 %\N{MINUS SIGN}0.4 to 0.7" in words.replace(
        "% \N{MINUS SIGN}", "%\N{MINUS SIGN}"
    )  # a share in per cent


@pytest.mark.parametrize("where", ["examples", "reason", "model", "event"])
def test_hostile_text_stays_text(results: dict[str, Result], where: str) -> None:
    result, bad = results["modelled"], "</style></svg><script>alert(1)</script><img src=x onerror=alert(2)>"
    if where == "reason":
        result = replace(result, trials=(*result.trials[:-1], replace(result.trials[-1], reason=bad)))
    elif where == "model":
        result = replace(result, provenance=replace(result.provenance, model=bad))
    elif where == "event":
        result = replace(result, events=(bad,))
    page = Page(render_html(result))
    assert not {"script", "img"} & {tag for tag, _ in page.tags}
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert ("<script>alert('user')</script>" if where == "examples" else bad) in page.text
    assert "{{ 7 * 7 }}" in page.text


def test_the_page_is_the_same_twice(results: dict[str, Result], pages: dict[str, str]) -> None:
    assert render_html(results["measured"]) == pages["measured"]


@pytest.mark.parametrize(
    ("a", "b", "differing"),
    [
        ("The light is on.", "The light is on.", ([], [])),
        ("The light is on.", "The lamp is on.", (["light"], ["lamp"])),
        ("on", "on now", ([], [" now"])),
        ("", "hello", ([], ["hello"])),
    ],
)
def test_where_two_replies_differ_is_marked(a: str, b: str, differing: tuple[list[str], list[str]]) -> None:
    pieces = word_differences(a, b)
    assert tuple("".join(text for text, _ in own) for own in pieces) == (a, b)
    assert tuple([text for text, differs in own if differs] for own in pieces) == differing
