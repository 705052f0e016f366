"""Which candidate wins, what a search proposes and remembers, and what is lost outside."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest

from halfwatt.compress.distil import Distil
from halfwatt.compress.prune import Prune
from halfwatt.compress.quantize.quantize import Quantize
from halfwatt.compress.recipe import Recipe
from halfwatt.core.errors import BadInput
from halfwatt.core.estimate import Estimate
from halfwatt.core.json_records import from_json
from halfwatt.core.settings import Budget, SearchSettings
from halfwatt.dialogues.dialogue import Dialogue, DialogueSet
from halfwatt.dialogues.splits import SealedSplit
from halfwatt.evaluate.gate import likelihood_check
from halfwatt.evaluate.records import GateCheck, QualityReport, Verdict
from halfwatt.formats.artifact import Artifact
from halfwatt.meters.discover import Instruments
from halfwatt.models.chat_model import load
from halfwatt.runtimes.base import OperatingPoint
from halfwatt.search import successive_halving
from halfwatt.search.candidate import CandidateResult, order_of
from halfwatt.search.exploration import BEST_SO_FAR, Assessor, search_recipes
from halfwatt.search.job import Job
from halfwatt.search.judgement import dialogues_to_judge
from halfwatt.search.lab import Contender, Lab
from halfwatt.search.optimize import Selection, best, lost_outside
from halfwatt.search.search_space import require_distinct
from halfwatt.search.stages import build
from halfwatt.search.teaching import teaching_plan
from halfwatt.search.trial import Trial, TrialReadings
from tests.support import taught_students as taught
from tests.support.hasty_optimize import SETTINGS
from tests.support.scripted_lab import ScriptedStore

T = TypeVar("T")
NOBODY = Contender("B1", Artifact(Path("nowhere"), "none", "f16", 1, 1, 1, "", ()), OperatingPoint())


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


def ground(folder: Path, steps: int) -> tuple[Job, tuple[Dialogue, ...]]:
    """A taught model and a job of it; nothing is measured."""
    dialogues = tuple(taught.dialogues())
    model = load(taught.folder(folder, "llama", dialogues, taught.School(steps=steps)))
    own = DialogueSet.of(dialogues[:10], split="tune", licence="")
    job = Job(model, own, SealedSplit(own, folder / "seal"), folder, Instruments(None), SETTINGS, train=own)
    return job, dialogues


def test_what_was_made_for_one_traffic_is_shown_on_others(tmp_path: Path) -> None:
    """A model cut by some dialogues; one that was only rounded has lost nothing in particular elsewhere."""
    job, dialogues = ground(tmp_path, steps=40)
    cut, rounded = Recipe("cut", (Prune(drop=1), Quantize(8))), Recipe("int8", (Quantize(8),))
    other = DialogueSet.of(dialogues[10:14], split="tune", licence="")
    job = replace(job, outside={"thermostats": other}, recipes=(cut, rounded))
    store = ScriptedStore(tmp_path / "stages")
    lab = Lab.of(job, store, job.tune, "tune")

    def trial_of(recipe: Recipe) -> Trial:
        artifact = lab.run(build, order_of(lab, recipe)).artifact
        return Trial(recipe.name, (), "done", None, artifact, OperatingPoint(threads=1), None, None)

    b1 = trial_of(Recipe("B1"))
    losses = lost_outside(job, store, Selection(b1, b1, (), trial_of(cut)))
    assert [loss.kind for loss in losses] == ["thermostats"]
    assert losses[0].quality.dialogues == 4
    assert losses[0].quality.split == "outside: thermostats"
    assert (losses[0].quality.kl_mean or 0) > 0
    assert losses[0].quality.verdict == "FAIL"
    assert (losses[0].quality.replies, losses[0].inputs.replies_ref) == (0, ()), "its likelihood says enough"
    assert likelihood_check(losses[0].quality.checks) is not None
    again = ScriptedStore(tmp_path / "stages", {"judge": lambda _: pytest.fail("written down when it was finished")})
    assert lost_outside(job, again, Selection(b1, b1, (), trial_of(cut))) == losses
    assert lost_outside(job, store, Selection(b1, b1, (), trial_of(rounded))) == ()
    assert lost_outside(job, store, Selection(b1, b1, (), b1)) == ()


def searching(folder: Path, budget: Budget) -> Job:
    """A job with a search of its own, on a device that nobody else waits for."""
    job, _ = ground(folder, steps=1)
    access = replace(SETTINGS.access, device=f"cpu:{os.getpid()}")
    return replace(job, settings=replace(SETTINGS, access=access, search=SearchSettings(budget)))


class AssumingStore(ScriptedStore):
    """Candidates are not tried: ``assumed`` says what a recipe comes to."""

    def __init__(self, folder: Path, assumed: Callable[[str], CandidateResult]) -> None:
        super().__init__(folder)
        self.assumed = assumed

    def once(self, name: str, kind: type[T], compute: Callable[[], T]) -> T:
        """As assumed, or as it is."""
        if not name.startswith("candidate-"):
            return super().once(name, kind, compute)
        return super().once(name, kind, lambda: self.assumed(name))  # type: ignore[arg-type, return-value]


def test_students_are_taught_on_round_by_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search whose candidates are not really tried: what is proposed, in which rounds, and what comes of it."""
    lessons: list[int] = []

    def assumed(name: str) -> CandidateResult:
        """Students take a tenth, and answer as well after their second round."""
        rounds = lessons_of(name)
        lessons.append(rounds)
        saving = Estimate(10.0 if rounds else 2.0, 1.9, 10.1, "x", 3)
        over = 0.1 if rounds == 1 else -0.1
        trial = Trial(name, (), "done", None, None, OperatingPoint(), None, None)
        return CandidateResult(trial, TrialReadings(name, (), None), saving, over)

    monkeypatch.setattr(successive_halving, "MIN_TOKENS", 1)
    job = searching(tmp_path, Budget(seconds=1e6, trials=40))
    lab = Lab.of(job, AssumingStore(tmp_path / "stages", assumed), job.tune, "tune")
    plan = teaching_plan(lab, Budget(seconds=1e6))
    assert plan is not None
    teaching = plan.curriculum.cut
    assert teaching is not None

    def lessons_of(name: str) -> int:
        """By the epochs in a student's name."""
        if not name.startswith("candidate-student"):
            return 0
        sums = [f"epochs {sum(teaching.lessons(until)):.3g}" for until in range(teaching.rounds)]
        slugs = [Recipe(text).slug for text in sums]
        return 1 + max(n for n, slug in enumerate(slugs) if name.rpartition("-")[0].endswith(slug))

    recipes = search_recipes(lab, NOBODY, plan)
    assert set(lessons) == {0, 1, 2}, "nobody needs the third round"
    assert lessons.count(2) == 1, "what takes no less than the one that passed is not taught on"
    taught_on = [sum(isinstance(step, Distil) for step in recipe.steps) for recipe in recipes]
    assert sorted(set(taught_on)) == [0, 1, 2]
    assert taught_on.count(2) == 1


def test_a_search_that_goes_on_remembers_what_it_has_to_beat(tmp_path: Path) -> None:
    names: list[str] = []

    def assumed(name: str) -> CandidateResult:
        """Each saves more than the one before, and passes."""
        names.append(name)
        saving = Estimate(2.0 + len(names), 1.9, 10.1, "x", 3)
        trial = Trial(name, (), "done", None, None, OperatingPoint(), None, None)
        return CandidateResult(trial, TrialReadings(name, (), None), saving, -0.1)

    job = searching(tmp_path, Budget(trials=2))
    for trials in (2, 3):  # a sitting each
        job = replace(job, settings=replace(job.settings, search=SearchSettings(Budget(trials=trials))))
        tried = search_recipes(Lab.of(job, AssumingStore(tmp_path / "stages", assumed), job.tune, "tune"), NOBODY)
    assert len(names) == len(tried) == 3
    assessor = Assessor(Lab.of(job, AssumingStore(tmp_path / "stages", assumed), job.tune, "tune"), NOBODY)
    assert assessor.best is None
    assessor.remember(tried)
    assert assessor.best is not None
    assert assessor.best.saving == Estimate(5.0, 1.9, 10.1, "x", 3), "earlier sittings' too"
    kept = from_json((tmp_path / BEST_SO_FAR).read_bytes(), Trial)
    assert kept.name == names[-1], "the last one saved most"


@pytest.mark.parametrize("folders", [("a/small", "b/small"), ("a/original",)])
def test_candidates_that_would_be_called_alike_are_refused(folders: tuple[str, ...]) -> None:
    with pytest.raises(BadInput, match="rename a --candidate folder"):
        require_distinct(folders)
    require_distinct(["a/small", "b/large", "student"])


def test_the_sealed_number_is_fixed_by_the_tune_split() -> None:
    """A bound just inside its margin at n dialogues is inside it again in 90 % of draws of 3.17 n."""
    exact = GateCheck("G0", "finite", "PASS", None, "exact", "")
    bound = GateCheck("G1", "likelihood", "PASS", Estimate(0.0, -0.1, 0.1, "nats", 200), "", "", room=0.0)
    report = QualityReport("tune", "PASS", (exact, bound), 200, 0, 0, None, None)
    assert dialogues_to_judge(report, 2000) == (634, 634)
    assert dialogues_to_judge(report, 500) == (500, 500)
    assert dialogues_to_judge(replace(report, dialogues=10), 2000) == (200, 200)
    open_one = replace(bound, verdict="INCONCLUSIVE")
    assert dialogues_to_judge(replace(report, checks=(exact, open_one), verdict="INCONCLUSIVE"), 2000) == (2000, 2000)
    assert dialogues_to_judge(None, 2000) == (2000, 2000)


def test_what_fits_is_asked_of_more_where_it_took_more() -> None:
    fits = GateCheck("G7", "fits", "PASS", Estimate(0.0, -0.1, 0.1, "share", 400), "", "", room=0.0)
    report = QualityReport("tune", "PASS", (replace(fits, layer="G1"), fits), 100, 0, 0, None, None)
    assert dialogues_to_judge(report, 2000) == (317, 1267)
    assert dialogues_to_judge(report, 1000) == (317, 1000)
    assert dialogues_to_judge(replace(report, dialogues=500), 2000) == (1584, 1584)


def test_where_only_what_fits_is_open_people_are_asked_of_all_that_there_are() -> None:
    """The original's replies are what judging takes, and it has answered enough for all other checks."""
    plain = GateCheck("G1", "likelihood", "PASS", Estimate(0.0, -0.1, 0.1, "nats", 200), "", "", room=0.0)
    fits = GateCheck("G7", "fits", "INCONCLUSIVE", Estimate(0.0, -0.1, 0.1, "share", 992), "", "")
    report = QualityReport("tune", "INCONCLUSIVE", (plain, fits), 200, 0, 0, None, None)
    assert dialogues_to_judge(report, 2000) == (634, 2000)
    assert dialogues_to_judge(report, 500) == (500, 500)
    undecided = replace(plain, verdict="INCONCLUSIVE")
    assert dialogues_to_judge(replace(report, checks=(undecided, fits)), 2000) == (2000, 2000)


@pytest.mark.parametrize("rooms", [(0.5,), (1.0,), (2.0,), (1.0, 1.5, 3.0)])
def test_bounds_well_inside_their_margins_take_fewer_sealed_dialogues(rooms: tuple[float, ...]) -> None:
    """Drawn: true changes that the tune split saw with its error, and the sealed one with its own."""
    n = 1000
    bound = GateCheck("G1", "likelihood", "PASS", Estimate(0.0, -0.1, 0.1, "nats", n), "", "")
    report = QualityReport("tune", "PASS", tuple(replace(bound, room=room) for room in rooms), n, 0, 0, None, None)
    answered, _ = dialogues_to_judge(report, 10**6)
    assert answered < 3.17 * n
    draw, inside = np.random.default_rng(0), 1.645 * (1 + np.array(rooms))  # standard errors from mean to margin
    truth = draw.standard_normal((200_000, len(rooms)))  # as far from what was seen as its error lets it be
    error = math.sqrt(n / answered)
    sealed = truth + error * draw.standard_normal(truth.shape)
    assert 0.895 < np.mean((sealed + 1.645 * error < inside).all(axis=1)) < 0.93


def test_what_fits_beside_the_original_alone_is_asked_of_the_original() -> None:
    """People are a measure of any further dialogue, the original of those that it answers."""
    plain = GateCheck("G1", "likelihood", "PASS", Estimate(0.0, -0.1, 0.1, "nats", 400), "", "", room=9.0)
    fits = GateCheck("G7", "fits", "PASS", Estimate(0.0, -0.1, 0.1, "share", 400), "", "")
    report = QualityReport("tune", "PASS", (plain, fits), 400, 0, 0, None, None)
    assert dialogues_to_judge(report, 2000) == (1267, 1267)
