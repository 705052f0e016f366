"""Which candidate wins, and which operating points are tried."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from halfwatt import halving, operating, pipeline, search
from halfwatt.accounting import cpu_s_per_reply
from halfwatt.chat_model import load
from halfwatt.dialogue import DialogueSet, SealedSplit
from halfwatt.estimate import Estimate
from halfwatt.explore import Budget
from halfwatt.journal import Journal
from halfwatt.meters import modelled
from halfwatt.recipe import Recipe
from halfwatt.records import (
    Artifact,
    OperatingPoint,
    QualityReport,
    Speculation,
    Trial,
    TrialReadings,
    Verdict,
    from_json,
)
from halfwatt.rungs import Arena, Bar, Job, Rung, cost_of
from halfwatt.search import Climb, best, outside
from halfwatt.steps.base import StepContext
from halfwatt.steps.distil import Distil
from halfwatt.steps.prune import Prune
from halfwatt.steps.quantize import Quantize
from halfwatt.workload import instruments
from tests import taught


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
    points = operating.by_threads(cores)
    assert len(set(points)) == len(points) <= 6
    assert all(1 <= (p.threads or 0) <= cores and 1 <= (p.threads_prefill or 0) <= cores for p in points)
    assert OperatingPoint(threads=1, threads_prefill=1) in points
    assert OperatingPoint(threads=cores, threads_prefill=cores) in points


def test_a_table_of_drafts_is_tried_where_there_is_one() -> None:
    bare = Artifact(Path(), "llamacpp", "int4", 1, 1, 1, "", ())
    at = OperatingPoint(threads=1, threads_prefill=2)
    plain, lookup = operating.by_guesses(bare, at)
    assert (plain, lookup) == (at, replace(at, speculation=Speculation("lookup")))
    ways = operating.by_guesses(replace(bare, draft="sha"), at)
    assert ways[:2] == [plain, lookup]
    assert {w.speculation.kind for w in ways[2:] if w.speculation} == {"table"}
    assert len(set(ways)) == len(ways)


@pytest.mark.parametrize(("users", "batches"), [(1, set()), (2, {2}), (6, {2, 4, 6}), (8, {2, 4, 8})])
def test_as_many_are_answered_at_once_as_ask_at_once(users: int, batches: set[int]) -> None:
    at = OperatingPoint(threads=1, threads_prefill=2)
    first, *others = operating.by_batches(at, users, cores=4)
    assert first == at
    assert {way.batch for way in others} == batches
    assert {way.threads for way in others} == ({1, 4} if batches else set())
    assert len(set(others)) == len(others)


def test_what_was_made_for_one_traffic_is_shown_on_others(tmp_path: Path) -> None:
    """A model cut by some dialogues; one that was only rounded has lost nothing in particular elsewhere."""
    told = taught.dialogues()
    model = load(taught.folder(tmp_path, "llama", told, taught.School(steps=40)))
    own, other = (DialogueSet.of(some, split="tune", licence="") for some in (told[:10], told[10:14]))
    speech = pipeline.Speech.by(model)
    traffic = pipeline.traffic(own, speech)

    def made(recipe: Recipe) -> Trial:
        context = StepContext(own.dialogues)
        artifact = pipeline.build(model, recipe, traffic.dialogues, tmp_path / "artifacts", "cpu", context)
        at = OperatingPoint(threads=1)
        return Trial(recipe.name, (), "done", None, artifact, at, None, None)

    cut, rounded = Recipe("cut", (Prune(drop=1), Quantize(8))), Recipe("int8", (Quantize(8),))
    b1 = made(Recipe("B1"))
    tools: Any = None  # nothing is measured here
    sealed = SealedSplit(own, tmp_path / "seal")
    kinds = {"thermostats": other}
    job = Job(model, own, sealed, tmp_path, tools, outside=kinds, recipes=(cut, rounded))
    journal = Journal(tmp_path / "stages", {})
    found = outside(job, journal, Climb(b1, b1, (), made(cut)), speech)
    assert [met.kind for met in found] == ["thermostats"]
    assert found[0].quality.dialogues == 4
    assert (found[0].quality.kl_mean or 0) > 0
    assert found == outside(job, journal, Climb(b1, b1, (), made(cut)), speech), "written down when it was finished"
    assert outside(job, journal, Climb(b1, b1, (), made(rounded)), speech) == ()
    assert outside(job, journal, Climb(b1, b1, (), b1), speech) == ()


@pytest.fixture
def ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Arena]:
    """Of a search in which nothing is measured: no device to wait for."""
    monkeypatch.setattr(search, "turn", lambda *_: nullcontext())
    told = taught.dialogues()
    model = load(taught.folder(tmp_path, "llama", told, taught.School(steps=1)))
    some = DialogueSet.of(told, split="tune", licence="")
    tools = instruments("cpu")
    job = Job(model, some, SealedSplit(some, tmp_path / "seal"), tmp_path, tools, train=some)
    b1 = Trial("B1", (), "done", None, None, OperatingPoint(), None, None)
    traffic = pipeline.traffic(some, pipeline.Speech.by(model))
    yield Arena(job, Journal(tmp_path / "stages", {}), b1, traffic)
    tools.close()


def test_students_are_taught_on_round_by_round(ground: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search whose candidates are not really measured: what is proposed, in which rounds, and what comes of it."""
    tried: list[int] = []

    def assumed(arena: Arena, recipe: Recipe, bar: Bar) -> Rung:
        """Students take a tenth, and answer as well after their second round."""
        lessons = [step for step in recipe.steps if isinstance(step, Distil)]
        tried.append(len(lessons))
        saving = Estimate(10.0 if lessons else 2.0, 1.9, 10.1, "x", 3)
        over = 0.1 if len(lessons) == 1 else -0.1
        made = Trial(recipe.name, (), "done", None, None, OperatingPoint(), None, None)
        return Rung(made, TrialReadings(recipe.name, (), None), saving, over)

    monkeypatch.setattr(halving, "MIN_TOKENS", 1)
    monkeypatch.setattr(search, "climbed", assumed)
    budget = Budget(seconds=1e6, trials=40)
    chosen = search._explored(replace(ground, job=replace(ground.job, budget=budget)))
    assert set(tried) == {0, 1, 2}, "nobody needs the third round"
    assert tried.count(2) == 1, "what takes no less than the one that passed is not taught on"
    assert [sum(isinstance(step, Distil) for step in recipe.steps) for recipe in chosen] == [2]


def test_a_search_that_goes_on_remembers_what_it_has_to_beat(ground: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    bars: list[float | None] = []

    def assumed(arena: Arena, recipe: Recipe, bar: Bar | None = None) -> Rung:
        """Each saves more than the one before, and passes."""

        def made() -> Rung:
            bars.append(bar.saving.mean if bar and bar.saving else None)
            saving = Estimate(2.0 + len(bars), 1.9, 10.1, "x", 3)
            blank = Trial(recipe.name, (), "done", None, None, OperatingPoint(), None, None)
            return Rung(blank, TrialReadings(recipe.name, (), None), saving, -0.1)

        return arena.journal.once(f"rung-{recipe.slug}", Rung, made)

    monkeypatch.setattr(search, "climbed", assumed)
    for trials in (2, 3):  # a sitting each
        sitting = replace(ground.job, budget=Budget(trials=trials))
        search._explored(replace(ground, job=sitting, journal=Journal(sitting.out / "stages", {})))
    assert bars == [None, 3.0, 4.0]
    kept = from_json((ground.job.out / search.BEST).read_bytes(), Trial)
    assert kept.name == "original, int4 GPTQ, draft 4", "the last one saved most"
