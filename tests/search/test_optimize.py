"""Which candidate wins, and which operating points are tried."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from halfwatt.compress.base import StepContext
from halfwatt.compress.distil import Distil
from halfwatt.compress.prune import Prune
from halfwatt.compress.quantize.quantize import Quantize
from halfwatt.compress.recipe import Recipe
from halfwatt.core.estimate import Estimate
from halfwatt.core.json_records import from_json
from halfwatt.core.settings import Budget
from halfwatt.dialogues.dialogue import DialogueSet
from halfwatt.dialogues.splits import SealedSplit
from halfwatt.evaluate import requests
from halfwatt.evaluate.energy_analysis import cpu_s_per_reply
from halfwatt.evaluate.instruments import instruments
from halfwatt.evaluate.records import QualityReport, Verdict
from halfwatt.formats.artifact import Artifact
from halfwatt.meters import modelled
from halfwatt.models.chat_model import load
from halfwatt.runtimes.base import OperatingPoint, Speculation
from halfwatt.search import build, operating_points, optimize, successive_halving
from halfwatt.search.candidate import CandidateResult, Evaluator, Incumbent, cost_of
from halfwatt.search.job import Job
from halfwatt.search.optimize import TuneOutcome, best, outside
from halfwatt.search.stages import StageStore
from halfwatt.search.trial import Trial, TrialReadings
from tests.support import taught_students as taught


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
    points = operating_points.by_threads(cores)
    assert len(set(points)) == len(points) <= 6
    assert all(1 <= (p.threads or 0) <= cores and 1 <= (p.threads_prefill or 0) <= cores for p in points)
    assert OperatingPoint(threads=1, threads_prefill=1) in points
    assert OperatingPoint(threads=cores, threads_prefill=cores) in points


def test_a_table_of_drafts_is_tried_where_there_is_one() -> None:
    bare = Artifact(Path(), "llamacpp", "int4", 1, 1, 1, "", ())
    at = OperatingPoint(threads=1, threads_prefill=2)
    plain, lookup = operating_points.by_guesses(bare, at)
    assert (plain, lookup) == (at, replace(at, speculation=Speculation("lookup")))
    ways = operating_points.by_guesses(replace(bare, draft="sha"), at)
    assert ways[:2] == [plain, lookup]
    assert {w.speculation.kind for w in ways[2:] if w.speculation} == {"table"}
    assert len(set(ways)) == len(ways)


@pytest.mark.parametrize(("users", "batches"), [(1, set()), (2, {2}), (6, {2, 4, 6}), (8, {2, 4, 8})])
def test_as_many_are_answered_at_once_as_ask_at_once(users: int, batches: set[int]) -> None:
    at = OperatingPoint(threads=1, threads_prefill=2)
    first, *others = operating_points.by_batches(at, users, cores=4)
    assert first == at
    assert {way.batch for way in others} == batches
    assert {way.threads for way in others} == ({1, 4} if batches else set())
    assert len(set(others)) == len(others)


def test_what_was_made_for_one_traffic_is_shown_on_others(tmp_path: Path) -> None:
    """A model cut by some dialogues; one that was only rounded has lost nothing in particular elsewhere."""
    told = taught.dialogues()
    model = load(taught.folder(tmp_path, "llama", told, taught.School(steps=40)))
    own, other = (DialogueSet.of(some, split="tune", licence="") for some in (told[:10], told[10:14]))
    speech = requests.ChatFormat.by(model)
    traffic = requests.make_workload(own, speech)

    def made(recipe: Recipe) -> Trial:
        context = StepContext(own.dialogues)
        artifact = build.build(model, recipe, traffic.dialogues, tmp_path / "artifacts", "cpu", context)
        at = OperatingPoint(threads=1)
        return Trial(recipe.name, (), "done", None, artifact, at, None, None)

    cut, rounded = Recipe("cut", (Prune(drop=1), Quantize(8))), Recipe("int8", (Quantize(8),))
    b1 = made(Recipe("B1"))
    tools: Any = None  # nothing is measured here
    sealed = SealedSplit(own, tmp_path / "seal")
    kinds = {"thermostats": other}
    job = Job(model, own, sealed, tmp_path, tools, outside=kinds, recipes=(cut, rounded))
    journal = StageStore(tmp_path / "stages", {})
    found = outside(job, journal, TuneOutcome(b1, b1, (), made(cut)), speech)
    assert [met.kind for met in found] == ["thermostats"]
    assert found[0].quality.dialogues == 4
    assert (found[0].quality.kl_mean or 0) > 0
    assert found == outside(job, journal, TuneOutcome(b1, b1, (), made(cut)), speech), (
        "written down when it was finished"
    )
    assert outside(job, journal, TuneOutcome(b1, b1, (), made(rounded)), speech) == ()
    assert outside(job, journal, TuneOutcome(b1, b1, (), b1), speech) == ()


@pytest.fixture
def ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Evaluator]:
    """Of a search in which nothing is measured: no device to wait for."""
    monkeypatch.setattr(optimize, "turn", lambda *_: nullcontext())
    told = taught.dialogues()
    model = load(taught.folder(tmp_path, "llama", told, taught.School(steps=1)))
    some = DialogueSet.of(told, split="tune", licence="")
    tools = instruments("cpu")
    job = Job(model, some, SealedSplit(some, tmp_path / "seal"), tmp_path, tools, train=some)
    b1 = Trial("B1", (), "done", None, None, OperatingPoint(), None, None)
    traffic = requests.make_workload(some, requests.ChatFormat.by(model))
    yield Evaluator(job, StageStore(tmp_path / "stages", {}), b1, traffic)
    tools.close()


def test_students_are_taught_on_round_by_round(ground: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search whose candidates are not really measured: what is proposed, in which rounds, and what comes of it."""
    tried: list[int] = []

    def assumed(arena: Evaluator, recipe: Recipe, bar: Incumbent) -> CandidateResult:
        """Students take a tenth, and answer as well after their second round."""
        lessons = [step for step in recipe.steps if isinstance(step, Distil)]
        tried.append(len(lessons))
        saving = Estimate(10.0 if lessons else 2.0, 1.9, 10.1, "x", 3)
        over = 0.1 if len(lessons) == 1 else -0.1
        made = Trial(recipe.name, (), "done", None, None, OperatingPoint(), None, None)
        return CandidateResult(made, TrialReadings(recipe.name, (), None), saving, over)

    monkeypatch.setattr(successive_halving, "MIN_TOKENS", 1)
    monkeypatch.setattr(optimize, "climbed", assumed)
    budget = Budget(seconds=1e6, trials=40)
    chosen = optimize._explored(replace(ground, job=replace(ground.job, budget=budget)))
    assert set(tried) == {0, 1, 2}, "nobody needs the third round"
    assert tried.count(2) == 1, "what takes no less than the one that passed is not taught on"
    assert [sum(isinstance(step, Distil) for step in recipe.steps) for recipe in chosen] == [2]


def test_a_search_that_goes_on_remembers_what_it_has_to_beat(
    ground: Evaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    bars: list[float | None] = []

    def assumed(arena: Evaluator, recipe: Recipe, bar: Incumbent | None = None) -> CandidateResult:
        """Each saves more than the one before, and passes."""

        def made() -> CandidateResult:
            bars.append(bar.saving.mean if bar and bar.saving else None)
            saving = Estimate(2.0 + len(bars), 1.9, 10.1, "x", 3)
            blank = Trial(recipe.name, (), "done", None, None, OperatingPoint(), None, None)
            return CandidateResult(blank, TrialReadings(recipe.name, (), None), saving, -0.1)

        return arena.journal.once(f"rung-{recipe.slug}", CandidateResult, made)

    monkeypatch.setattr(optimize, "climbed", assumed)
    for trials in (2, 3):  # a sitting each
        sitting = replace(ground.job, budget=Budget(trials=trials))
        optimize._explored(replace(ground, job=sitting, journal=StageStore(sitting.out / "stages", {})))
    assert bars == [None, 3.0, 4.0]
    kept = from_json((ground.job.out / optimize.BEST).read_bytes(), Trial)
    assert kept.name == "original, int4 GPTQ, draft 4", "the last one saved most"
