from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from halfwatt.compress.quantize.quantize import Quantize
from halfwatt.compress.recipe import Recipe, read_recipe
from halfwatt.core.errors import BadInput
from halfwatt.core.settings import RunSettings, SearchSettings
from halfwatt.dialogues.dialogue import Dialogue, Message
from halfwatt.evaluate.energy_protocol import Run
from halfwatt.evaluate.requests import Workload
from halfwatt.formats.artifact import ARTIFACT
from halfwatt.models.chat_model import ChatModel, load
from halfwatt.results.report.html import render_html
from halfwatt.results.result import Result, parse
from halfwatt.results.write import EXAMPLES, write_results
from halfwatt.runtimes.base import read_operating_point
from halfwatt.search.candidate import CandidateResult
from halfwatt.search.job import Job
from halfwatt.search.optimize import Outcome, Selection
from tests.support import example_results as results
from tests.support import tiny_models as tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ChatModel:
    return load(tiny.folder(tmp_path_factory.mktemp("model") / "tiny", "llama"))


def job_of(model: ChatModel, out: Path) -> Job:
    """With all that is looked at once the search is over."""
    unused: Any = None
    settings = RunSettings(search=SearchSettings(users=3, replies_per_hour=50.0))
    return Job(model=model, tune=unused, test=unused, out=out, tools=unused, settings=settings)


def outcome_of(like: Result, artifact: Path, model: ChatModel, replies: int = 30) -> Outcome:
    """The search that a result would have come from; the artifact that it delivers lies in ``artifact``."""
    artifact.mkdir()
    (artifact / ARTIFACT).write_text("{}")
    (artifact / "model.gguf").write_bytes(b"weights")
    trials = [replace(t, artifact=replace(t.artifact, path=artifact)) if t.artifact else t for t in like.trials]
    candidates = tuple(CandidateResult(*pair) for pair in zip(trials, like.raw.trials, strict=True))
    champion = next(t for t in trials if t.name == like.claim.about)
    inputs = like.raw.quality_inputs
    assert inputs is not None
    assert like.final_quality is not None
    assert like.took is not None
    greedy = tuple(replace(inputs.replies_ref[0], dialogue=f"d{i}", text=f"reply {i}") for i in range(replies))
    sampled = replace(greedy[0], seed=7, text="sampled")
    dialogues = tuple(Dialogue(f"d{i}", (Message("user", f"q{i}"), Message("assistant", "a"))) for i in range(replies))
    return Outcome(
        selection=Selection(like.baselines.B0, like.baselines.B1, candidates, champion),
        final=Run(like.raw.windows, like.meters[0], like.meters, ("B0: warm-up",)),
        measured=like.final,
        quality=like.final_quality,
        inputs=replace(inputs, replies_ref=(*greedy, sampled), replies_cand=(*greedy, sampled)),
        claim=like.claim,
        delivered=champion,
        recipe=Recipe("int4", (Quantize(4),)),
        test=Workload(dialogues, model.tokenizer, model.generation, 32, ()),
        notes=("a note",),
        traffic=Workload(dialogues, model.tokenizer, model.generation, 32, ()),
        cost=like.took,
    )


def test_everything_is_written_whole(model: ChatModel, tmp_path: Path) -> None:
    like, out = results.make("measured"), tmp_path / "out"
    out.mkdir()
    result = write_results(outcome_of(like, tmp_path / "artifact", model), job_of(model, out), like.provenance)
    assert sorted(p.name for p in out.iterdir()) == ["report.html", "result.json", "winner"]
    assert parse((out / "result.json").read_bytes()) == result
    assert (out / "report.html").read_text() == render_html(result)
    winner = out / "winner"
    names = ["README.md", ARTIFACT, "model.gguf", "operating_point.json", "recipe.toml"]
    assert sorted(p.name for p in winner.iterdir()) == names
    assert (winner / "model.gguf").read_bytes() == b"weights"
    assert read_recipe(winner / "recipe.toml").steps == (Quantize(4),)
    assert read_operating_point(winner) == next(t.at for t in result.trials if t.name == "int4")
    assert "PASS" in (winner / "README.md").read_text()


def test_the_result_holds_what_the_search_came_to(model: ChatModel, tmp_path: Path) -> None:
    like = results.make("measured")
    result = write_results(outcome_of(like, tmp_path / "artifact", model), job_of(model, tmp_path), like.provenance)
    same = ("final", "final_quality", "claim", "meters", "baselines", "winner", "winner_path")
    assert {name: getattr(result, name) for name in same} == {name: getattr(like, name) for name in same}
    assert result.raw.windows == like.raw.windows
    assert result.raw.trials == like.raw.trials
    assert result.events == ("a note", "B0: warm-up")
    assert result.profile is not None
    assert (result.profile.dialogues, result.profile.users, result.profile.replies_per_hour) == (30, 3, 50.0)
    assert result.repaid is not None
    assert like.repaid is not None
    assert result.repaid.replies == like.repaid.replies
    assert [due.replies_per_hour for due in result.repaid.due] == [50.0]
    assert all(not finding.available for finding in result.unavailable)


def test_examples_are_greedy_and_spread_evenly_over_the_split(model: ChatModel, tmp_path: Path) -> None:
    like = results.make("measured")
    result = write_results(outcome_of(like, tmp_path / "artifact", model), job_of(model, tmp_path), like.provenance)
    assert [e.original for e in result.examples] == [f"reply {i}" for i in range(0, 3 * EXAMPLES, 3)]
    assert [m.content for m in result.examples[1].dialogue.messages] == ["q3"], "the prompt, without its reply"


def test_what_an_interrupted_delivery_left_is_replaced(model: ChatModel, tmp_path: Path) -> None:
    like = results.make("measured")
    outcome, job = outcome_of(like, tmp_path / "artifact", model), job_of(model, tmp_path)
    (tmp_path / "winner").mkdir()
    (tmp_path / "winner" / "stale").write_text("")
    write_results(outcome, job, like.provenance)
    assert not (tmp_path / "winner" / "stale").exists()


def test_without_the_winners_artifact_there_is_no_result(model: ChatModel, tmp_path: Path) -> None:
    like = results.make("measured")
    outcome = outcome_of(like, tmp_path / "artifact", model)
    (tmp_path / "artifact" / ARTIFACT).unlink()
    with pytest.raises(BadInput, match="the artifact of int4 is gone"):
        write_results(outcome, job_of(model, tmp_path), like.provenance)
    assert not (tmp_path / "result.json").exists()
    assert not (tmp_path / "winner").exists()
