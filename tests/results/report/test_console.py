from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from halfwatt.meters.base import Finding
from halfwatt.meters.cost import Cost
from halfwatt.results.report import console
from halfwatt.results.result import Comparison, Measured, Result, TransformedModel
from halfwatt.results.tables import arms
from halfwatt.results.verify import Difference, Verification
from tests.support.terminal import plain


def table(result: Result, width: int = 80) -> str:
    return plain(console.result_view(result, Path("out/demo")), width)


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_the_terminal(results: dict[str, Result], case: str, width: int) -> None:
    text = table(results[case], width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert results[case].claim.verdict in text
    for whole in ("reference", "CPU-ms", "int4 + int8 head", "out/demo/report.html"):
        assert whole in text
    assert not re.search(r"\b(nan|inf|None)\b", text)


def test_modelled_energy_is_a_ratio_with_its_grade(results: dict[str, Result]) -> None:
    text = table(results["modelled"])
    assert "J/reply" not in text
    assert text.count("E modelled") >= 7  # five rows, two ratios
    assert "MODELLED (grade E: " in text
    assert "0.46 E modelled" in text


def test_measured_energy_is_in_joules_with_its_grade(results: dict[str, Result]) -> None:
    text = table(results["measured"])
    assert "J/reply" in text
    assert "0.501 B" in text
    assert "MEASURED (grade B: CPU package 0 and its DRAM; not covered: board" in " ".join(text.split())


def test_no_meter_shows_dashes_and_never_zero(results: dict[str, Result]) -> None:
    text = table(results["no meter"])
    assert text.count("no meter") >= 5
    assert "NO ENERGY NUMBER (grade F: no meter" in text
    assert not re.search(r"(?<![\w.])0(\.0+)?(?![\w.])", text.split("energy", 2)[1])


def test_a_refused_saving_is_not_claimed(results: dict[str, Result]) -> None:
    for case in ("fail", "inconclusive", "no proven saving"):
        assert "not claimed" in table(results[case])
    assert "not claimed" not in table(results["modelled"])


def test_what_training_cost_and_what_was_lost_elsewhere_is_told(results: dict[str, Result]) -> None:
    text = " ".join(table(results["modelled"]).split())
    assert "int4: trained on 2,100,000 tokens, 1,400 CPU-s; repaid after" in text
    assert "service: FAIL on 400 dialogues" in text
    assert "same top token 94%" in text
    assert "service" not in table(results["no proven saving"]), "B1 itself was trained for nothing"


def test_text_from_outside_is_neither_markup_nor_control(results: dict[str, Result]) -> None:
    bad = replace(results["modelled"].trials[-1], reason="[bold]x[/bold] \x1b[31mred\x07")
    text = table(replace(results["modelled"], trials=(*results["modelled"].trials[:-1], bad)))
    assert "[bold]x[/bold]" in text
    assert "\x1b" not in text
    assert "\x07" not in text


def test_one_model_and_two_models_are_shown_with_their_figures(results: dict[str, Result]) -> None:
    result = results["measured"]
    trial, inputs, quality = result.trials[0], result.raw.quality_inputs, result.final_quality
    assert trial.artifact is not None
    assert inputs is not None
    assert quality is not None
    both = (arms(result)["B0"], arms(result)["winner"])
    notes = ("a note [x]",)
    measured = Measured(result.provenance, result.meters, trial.artifact, trial.at, both[1], (), notes)
    text = plain(console.measured_view(measured))
    assert "a note [x]" in text
    assert "0.501 [0.497 to 0.504] B" in text
    assert "1 thread, int8" in text
    comparison = Comparison(
        provenance=result.provenance,
        meters=result.meters,
        artifacts=(trial.artifact, trial.artifact),
        measurements=both,
        cpu_s_ratio=result.claim.cpu_s_ratio_vs_B1,
        energy_ratio=result.claim.energy_ratio_vs_B0,
        quality=quality,
        inputs=inputs,
        windows=(),
        notes=(),
    )
    text = plain(console.comparison_view(comparison))
    assert "12.08 [12.02 to 12.14] B" in text
    assert "G4" in text
    assert "PASS: B against A on 400 dialogues" in text


def test_what_steps_wrote_is_shown(results: dict[str, Result]) -> None:
    artifact = results["measured"].trials[0].artifact
    assert artifact is not None
    text = plain(console.artifact_view(artifact), 200)
    assert "int8, 18.3 MB, for llamacpp" in text
    assert "kept at int8: model.layers.0.mlp.down_proj" in text
    here, elsewhere = Cost(1000, 60.0, 90.0, joules=5.0, meter="rapl"), Cost(7, 30.0, device="cuda")
    model = TransformedModel(Path("out/[b]small"), (4_000_000, 1_000_000), ("distil", "prune"), (here, elsewhere))
    assert plain(console.transformed_view(model)).splitlines() == [
        "out/[b]small  1.00M parameters, 25% of 4.00M",
        "  distil",
        "  prune",
        "  training took 1,000 tokens, 90 CPU-s, 5 J by rapl",
        "  training took 7 tokens, 30 s on cuda, energy not measured",
    ]


def test_every_meter_is_listed_with_what_would_enable_it(results: dict[str, Result]) -> None:
    lower = Finding("nvml:0", "gpu", "B", "board", True, None, advice="try nvidia-smi -pl 350")
    here = Finding("rapl", "cpu", "B", "CPU package 0", True, None)
    text = plain(console.doctor_view([*results["measured"].unavailable, here, lower]))
    for words in ("no battery", "CPU package 0", "nvml:0: try nvidia-smi -pl 350"):
        assert words in text


def test_verification_names_what_differs() -> None:
    good = Verification("r.json", 120, 50, 800, ())
    assert "all 120 figures follow" in plain(console.verification_view(good))
    bad = replace(good, differences=(Difference("claim.grade", "B", "E"),))
    assert "claim.grade: stored B, recomputed E" in plain(console.verification_view(bad))


def test_a_record_is_printed_for_people_or_as_one_json_document(capsys: pytest.CaptureFixture[str]) -> None:
    verification = Verification("r.json", 120, 50, 800, ())
    console.emit(verification, console.verification_view, as_json=False)
    assert capsys.readouterr().out.startswith("all 120 figures")
    console.emit({"found": verification}, lambda record: console.verification_view(record["found"]), as_json=True)
    assert json.loads(capsys.readouterr().out)["found"]["figures"] == 120
