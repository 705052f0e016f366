from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from halfwatt.results.report.card import licence_of, model_card
from halfwatt.results.result import Result


def front_matter(card: str) -> dict[str, Any]:
    data: Any = ModelCard(card).data
    return dict(data.to_dict())


def test_the_card_is_one_that_the_hub_reads(results: dict[str, Result]) -> None:
    result = results["measured"]
    named = replace(result, provenance=replace(result.provenance, model="acme/chat-1b"))
    data = front_matter(model_card(named, licence="apache-2.0"))
    assert data["base_model"] == "acme/chat-1b"
    assert data["base_model_relation"] == "quantized"
    assert data["library_name"] == "llama-cpp-python"
    assert data["pipeline_tag"] == "text-generation"
    assert data["license"] == "apache-2.0"
    assert "license" not in front_matter(model_card(named))


def test_the_card_shows_before_and_after(results: dict[str, Result]) -> None:
    text = model_card(results["measured"])
    assert "| J/reply | 6.05 [6.03 to 6.07] B | 1.072 [1.065 to 1.079] B | 0.501 [0.497 to 0.504] B |" in text
    for words in ("AMD EPYC", "seed 0", "one-sided 95 % bounds", "**PASS**", "12.08 [12.02 to 12.14] B"):
        assert words in text
    modelled = model_card(results["modelled"])
    assert "J/reply" not in modelled
    assert "0.46 [0.31 to 0.69] E modelled" in modelled
    assert "service: FAIL on 400 dialogues" in modelled
    assert "| original as commonly run (B0) | original, best runtime (B1) |\n" in model_card(
        results["no proven saving"]
    )


def test_the_card_of_a_refused_candidate_claims_nothing(results: dict[str, Result]) -> None:
    text = model_card(results["fail"])
    assert "# demo, B1" in text
    assert "Measured, not claimed as a saving" in text
    assert "FAIL for int4 on 400 dialogues" in text


def test_the_card_names_no_local_path_and_breaks_on_no_name(results: dict[str, Result]) -> None:
    result = results["modelled"]
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
