"""The table, the page and the model card, for every way in which a run can end."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from halfwatt.core.estimate import Estimate
from halfwatt.evaluate.records import ClaimVerdict
from halfwatt.meters.base import Finding
from halfwatt.results.report import console, formatting, plots
from halfwatt.results.report.card import licence_of, model_card
from halfwatt.results.report.figures import figures
from halfwatt.results.report.html import render_html, write_html
from halfwatt.results.result import Comparison, Measured, Result
from halfwatt.results.tables import arms, rows
from halfwatt.results.verify import Difference, Verification
from halfwatt.runtimes.base import OperatingPoint, Speculation
from tests.support import example_results as results

CASES: dict[str, tuple[results.Energy, ClaimVerdict]] = {
    "modelled": ("modelled", "PASS"),
    "measured": ("measured", "PASS"),
    "no meter": ("none", "PASS"),
    "no proven saving": ("modelled", "NO PROVEN SAVING"),
    "fail": ("measured", "FAIL"),
    "inconclusive": ("modelled", "INCONCLUSIVE"),
}


@pytest.fixture(scope="module")
def made() -> dict[str, Result]:
    return {name: results.make(*case) for name, case in CASES.items()}


@pytest.fixture(scope="module")
def pages(made: dict[str, Result]) -> dict[str, str]:
    return {name: render_html(result) for name, result in made.items()}


class Page(HTMLParser):
    """Tags with their attributes, the text that a reader sees, and the numbers with their marks."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.styles = ""
        self._inside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("style", "title"):
            self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("style", "title"):
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        if "style" in self._inside:
            self.styles += data
        else:
            self.text += data


# --- numbers ----------------------------------------------------------------------------------------------------------


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


def test_absent_is_a_dash_with_its_reason() -> None:
    shown = formatting.figure(None, "no meter")
    assert shown.absent
    assert shown.line == "\N{EN DASH} (no meter)"


# --- the terminal -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_the_terminal(made: dict[str, Result], case: str, width: int) -> None:
    text = console.render_table(made[case], Path("out/demo"), width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert made[case].claim.verdict in text
    for whole in ("reference", "CPU-ms", "int4 + int8 head", "out/demo/report.html"):
        assert whole in text
    assert not re.search(r"\b(nan|inf|None)\b", text)


def test_modelled_energy_is_a_ratio_with_its_grade(made: dict[str, Result]) -> None:
    text = console.render_table(made["modelled"])
    assert "J/reply" not in text
    assert text.count("E modelled") >= 7  # five rows, two ratios
    assert "MODELLED (grade E: " in text
    assert "0.46 E modelled" in text


def test_measured_energy_is_in_joules_with_its_grade(made: dict[str, Result]) -> None:
    text = console.render_table(made["measured"])
    assert "J/reply" in text
    assert "0.501 B" in text
    assert "MEASURED (grade B: CPU package 0 and its DRAM; not covered: board" in " ".join(text.split())


def test_no_meter_shows_dashes_and_never_zero(made: dict[str, Result]) -> None:
    text = console.render_table(made["no meter"])
    assert text.count("no meter") >= 5
    assert "NO ENERGY NUMBER (grade F: no meter" in text
    assert not re.search(r"(?<![\w.])0(\.0+)?(?![\w.])", text.split("energy", 2)[1])


def test_a_refused_saving_is_not_claimed(made: dict[str, Result]) -> None:
    for case in ("fail", "inconclusive", "no proven saving"):
        assert "not claimed" in console.render_table(made[case])
    assert "not claimed" not in console.render_table(made["modelled"])


def test_text_from_outside_is_neither_markup_nor_control(made: dict[str, Result]) -> None:
    bad = replace(made["modelled"].trials[-1], reason="[bold]x[/bold] \x1b[31mred\x07")
    text = console.render_table(replace(made["modelled"], trials=(*made["modelled"].trials[:-1], bad)))
    assert "[bold]x[/bold]" in text
    assert "\x1b" not in text
    assert "\x07" not in text


def test_the_other_verbs_print(made: dict[str, Result], capsys: pytest.CaptureFixture[str]) -> None:
    found = made["measured"]
    trial, inputs, quality = found.trials[0], found.raw.quality_inputs, found.final_quality
    assert trial.artifact is not None
    assert inputs is not None
    assert quality is not None
    both = (arms(found)["B0"], arms(found)["winner"])
    console.show_measured(
        Measured(found.provenance, found.meters, trial.artifact, trial.at, both[1], (), ("a note [x]",))
    )
    console.show_comparison(
        Comparison(
            provenance=found.provenance,
            meters=found.meters,
            artifacts=(trial.artifact, trial.artifact),
            measurements=both,
            cpu_s_ratio=found.claim.cpu_s_ratio_vs_B0,
            energy_ratio=found.claim.energy_ratio_vs_B0,
            quality=quality,
            inputs=inputs,
            windows=(),
            notes=(),
        )
    )
    console.show_artifact(trial.artifact)
    lower = Finding("nvml:0", "gpu", "B", "board", True, None, advice="try nvidia-smi -pl 350")
    console.show_doctor([*found.unavailable, Finding("rapl", "cpu", "B", "CPU package 0", True, None), lower])
    console.show(found, Path("out"))
    text = capsys.readouterr().out
    for said in (
        "a note [x]",
        "12.08 [12.02 to 12.14] B",
        "kept at int8",
        "no battery",
        "CPU package 0",
        "G4",
        "-pl 350",
    ):
        assert said in text


def test_verification_names_what_differs() -> None:
    good = console.plain(console.verification_view(Verification("r.json", 120, 50, 800, ())))
    assert "120 figures" in good
    bad = Verification("r.json", 120, 50, 800, (Difference("claim.grade", "B", "E"),))
    assert "claim.grade: stored B, recomputed E" in console.plain(console.verification_view(bad))


# --- the page ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
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


@pytest.mark.parametrize("case", CASES)
def test_every_number_carries_its_origin(pages: dict[str, str], made: dict[str, Result], case: str) -> None:
    page, result = Page(pages[case]), made[case]
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
        for cell in re.findall(r'<td class="right" data-label="(?:J/reply|energy[^"]*)">(.*?)</td>', pages[case]):
            assert "data-grade" in cell or "\N{EN DASH}" in cell


@pytest.mark.parametrize("case", CASES)
def test_the_page_says_how_it_ended(pages: dict[str, str], made: dict[str, Result], case: str) -> None:
    text = " ".join(Page(pages[case]).text.split())
    claim = made[case].claim
    assert claim.verdict in text
    assert ("not claimed as a saving" in text) == (claim.verdict != "PASS")
    assert not re.search(r"\b(nan|None|Undefined)\b", text)
    for heading in ("Per reply", "The quality gate", "Replies, side by side", "Meters not available here"):
        assert heading in text
    assert "prompts of 96 tokens (95 %: 310), 41% of them from the turns before" in text
    assert "What a reply takes, as a share of one thread" in text
    assert "threads that read the prompt" in text
    assert "kB of weights read for each token" in text
    assert "foreign CPU load 12% of the machine" in text
    assert "no battery in /sys/class/power_supply" in text


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


@pytest.mark.parametrize("where", ["examples", "reason", "model", "event"])
def test_hostile_text_stays_text(made: dict[str, Result], where: str) -> None:
    result, bad = made["modelled"], "</style></svg><script>alert(1)</script><img src=x onerror=alert(2)>"
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


def test_a_hostile_trial_name_stays_text_in_the_plots(made: dict[str, Result]) -> None:
    result = made["modelled"]
    bad = replace(result.trials[0], name="<script>alert(3)</script> $x^2$")
    page = Page(render_html(replace(result, trials=(bad, *result.trials[1:]))))
    assert "script" not in {tag for tag, _ in page.tags}
    assert page.text.count("<script>alert(3)") >= 3, "folded in the plots"
    assert "$x^2$" in page.text


def test_a_long_name_is_folded_in_the_plots(made: dict[str, Result]) -> None:
    long = "a model with a name that goes on and on, quantize bits 4, and so forth"
    result = made["modelled"]
    renamed = tuple(replace(t, name=long) if t.name == result.claim.about else t for t in result.trials)
    page = render_html(replace(result, trials=renamed, winner=long, claim=replace(result.claim, about=long)))
    shown = [text for text in re.findall(r"<text[^>]*>([^<]*)</text>", page) if text.startswith("a model")]
    assert sorted(map(len, shown)) == [14, 14, 14, 14, len(long)], "whole only above the time line, where there is room"


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


def test_the_page_is_the_same_twice(made: dict[str, Result], pages: dict[str, str]) -> None:
    assert render_html(made["measured"]) == pages["measured"]


def test_the_page_is_written_whole(made: dict[str, Result], pages: dict[str, str], tmp_path: Path) -> None:
    write_html(made["fail"], tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text() == pages["fail"]
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


# --- the model card ---------------------------------------------------------------------------------------------------


def front_matter(card: str) -> dict[str, Any]:
    data: Any = ModelCard(card).data
    return dict(data.to_dict())


def test_the_card_is_one_that_the_hub_reads(made: dict[str, Result]) -> None:
    result = made["measured"]
    named = replace(result, provenance=replace(result.provenance, model="acme/chat-1b"))
    data = front_matter(model_card(named, licence="apache-2.0"))
    assert data["base_model"] == "acme/chat-1b"
    assert data["base_model_relation"] == "quantized"
    assert data["library_name"] == "llama-cpp-python"
    assert data["pipeline_tag"] == "text-generation"
    assert data["license"] == "apache-2.0"
    assert "license" not in front_matter(model_card(named))


def test_the_card_shows_before_and_after(made: dict[str, Result]) -> None:
    text = model_card(made["measured"])
    assert "| J/reply | 6.05 [6.03 to 6.07] B | 1.072 [1.065 to 1.079] B | 0.501 [0.497 to 0.504] B |" in text
    for said in ("AMD EPYC", "seed 0", "one-sided 95 % bounds", "**PASS**", "12.08 [12.02 to 12.14] B"):
        assert said in text
    modelled = model_card(made["modelled"])
    assert "J/reply" not in modelled
    assert "0.46 [0.31 to 0.69] E modelled" in modelled


def test_what_training_cost_and_what_was_lost_elsewhere_is_said_everywhere(
    made: dict[str, Result], pages: dict[str, str]
) -> None:
    table = " ".join(console.render_table(made["modelled"]).split())
    page = " ".join(Page(pages["modelled"]).text.split())
    for text in (table, page):
        assert "int4: trained on 2,100,000 tokens, 1,400 CPU-s; repaid after" in text
        assert "service: FAIL on 400 dialogues" in text
        assert "same top token 94%" in text
    assert "service: FAIL on 400 dialogues" in model_card(made["modelled"])
    for text in (console.render_table(made["no proven saving"]), Page(pages["no proven saving"]).text):
        assert "service" not in text, "B1 itself was made for nothing"


def test_from_when_on_it_is_repaid_is_drawn(made: dict[str, Result], pages: dict[str, str]) -> None:
    page = " ".join(Page(pages["modelled"]).text.split())
    assert "When it is repaid" in page
    assert "int4 begins with the 3,900 CPU-seconds that finding it took, all training included" in page
    assert "When it is repaid" not in Page(pages["no proven saving"]).text, "B1 was there already"
    told = made["modelled"].repaid
    assert told is not None
    never = " ".join(Page(render_html(replace(made["modelled"], repaid=replace(told, replies=None)))).text.split())
    assert "When it is repaid \N{EN DASH} not shown: no saving is certain" in never


def test_a_rejected_candidate_stands_in_the_ladder_between_what_was_dearer_and_cheaper(made: dict[str, Result]) -> None:
    drawn = figures(made["modelled"], rows(made["modelled"]))[0]
    assert drawn.svg is not None
    named = [name for name in re.findall(r">([^<>]+)</text>", drawn.svg) if name in results.ARMS]
    assert named == ["B0", "int8", "int6", "int4 + int8 head", "int4", "B1"], "the last is the line at 1"


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
    pieces = formatting.apart(a, b)
    assert tuple("".join(text for text, _ in own) for own in pieces) == (a, b)
    assert tuple([text for text, differs in own if differs] for own in pieces) == differing


def test_the_gate_is_listed_with_its_bounds(made: dict[str, Result], pages: dict[str, str]) -> None:
    text = " ".join(Page(pages["inconclusive"]).text.split())
    assert "needs about 640 dialogues" in text
    assert text.count("token ids as the reference's") == 1  # the exact checks fold into one line
    assert "0.1 % \N{MINUS SIGN}0.4 to 0.7" in text.replace(
        "%\N{MINUS SIGN}", "% \N{MINUS SIGN}"
    )  # a share in per cent
    report = made["modelled"].final_quality
    assert report is not None
    broken = replace(report, checks=(replace(report.checks[0], verdict="FAIL"), *report.checks[1:]))
    assert [c.layer for c in formatting.gate_lines(broken)].count("G0") == 3


def test_the_card_of_a_refused_candidate_claims_nothing(made: dict[str, Result]) -> None:
    text = model_card(made["fail"])
    assert "# demo, B1" in text
    assert "Measured, not claimed as a saving" in text
    assert "FAIL for int4 on 400 dialogues" in text


def test_the_card_names_no_local_path_and_breaks_on_no_name(made: dict[str, Result]) -> None:
    result = made["modelled"]
    odd = replace(result, provenance=replace(result.provenance, model='/home/me/my "model": x'))
    text = model_card(odd)
    assert "/home/me" not in text
    assert "/somewhere" not in text
    assert front_matter(text)["base_model"] == 'my "model": x'


def test_the_licence_comes_from_the_base_models_card(tmp_path: Path) -> None:
    assert licence_of(tmp_path) is None
    (tmp_path / "README.md").write_text("---\nlanguage: en\nlicense: mit\n---\n# x\nlicense: gpl\n")
    assert licence_of(tmp_path) == "mit"
    (tmp_path / "README.md").write_text("# no front matter\nlicense: mit\n")
    assert licence_of(tmp_path) is None


def test_a_figure_that_never_varied_can_be_shown() -> None:
    assert formatting.figure(Estimate(0.0, 0.0, 0.0, "nats", 9), "nats").value.startswith("0")


def test_an_interval_that_reaches_zero_can_be_drawn() -> None:
    wide = Estimate(0.02, -0.01, 0.05, "CPU-s/reply", 2)
    svg = plots.ladder([plots.Rung("B0", wide, plots.OTHER, False)], "CPU-ms per reply")
    assert "<svg" in svg


@pytest.mark.parametrize(
    ("at", "said"),
    [
        (OperatingPoint(), "default threads"),
        (OperatingPoint(threads=1, threads_prefill=1), "1 thread"),
        (OperatingPoint(threads=2, threads_prefill=4), "2 threads, prefill 4"),
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
def test_an_operating_point_in_words(at: OperatingPoint, said: str) -> None:
    assert formatting.served(at) == said
