"""The stages of a candidate one by one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from halfwatt.compress.recipe import Recipe
from halfwatt.core.settings import MeasurePlan
from halfwatt.evaluate.energy_analysis import cpu_s_per_reply
from halfwatt.evaluate.energy_protocol import Arm, Run
from halfwatt.evaluate.requests import Workload
from halfwatt.meters import modelled
from halfwatt.search.candidate import order_of
from halfwatt.search.lab import Lab
from halfwatt.search.stages import (
    AS_COMMONLY_RUN,
    MeasureOrder,
    TuneOrder,
    Tuning,
    _can_serve,
    build,
    cost_of,
    measure,
    tune,
)
from tests.search.conftest import PLAIN, Ground
from tests.support.scripted_lab import ScriptedStore, run_of

PLAN = MeasurePlan(2, 2)


def test_an_operating_point_is_chosen_by_what_was_measured() -> None:
    counter = replace(modelled.INFO, name="rapl", kind="measured", grade="B")
    assert cost_of(None) is cost_of(modelled.INFO) is cpu_s_per_reply
    assert cost_of(counter) is not cpu_s_per_reply


def costs_by_cache(shares: dict[int, float]) -> Callable[[MeasureOrder], Run]:
    return lambda order: run_of({each.name: shares[each.at.kv_bits] for each in order.contenders})


def tuned(ground: Ground, folder: Path, shares: dict[int, float], *, coarser: bool) -> Tuning:
    store = ScriptedStore(folder, {"measure": costs_by_cache(shares)})
    lab = Lab(ground.job, store, ground.lab(folder).workload, "tune")
    return lab.run(tune, TuneOrder(ground.b1, PLAN, coarser=coarser))


def test_a_coarser_cache_must_save_more_than_noise(
    ground: Ground,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = ground.lab(tmp_path).spec(replace(ground.b1, at=replace(PLAIN, kv_bits=8)))
    assert not _can_serve(spec), "heads of 16"
    monkeypatch.setattr("halfwatt.search.stages._can_serve", lambda _: True)
    noisy = tuned(ground, tmp_path / "a", {16: 1.0, 8: 0.99, 4: 1.2}, coarser=True)
    assert noisy.best.kv_bits == 16
    assert {way.at.kv_bits for way in noisy.ways} == {16, 8, 4}
    clear = {16: 1.0, 8: 0.9, 4: 1.2}
    assert tuned(ground, tmp_path / "b", clear, coarser=True).best.kv_bits == 8
    assert tuned(ground, tmp_path / "b", clear, coarser=True).plain.kv_bits == 16
    assert tuned(ground, tmp_path / "c", clear, coarser=False).best.kv_bits == 16, "B1 is the reference"


def test_a_single_way_of_serving_is_not_measured(
    ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One core, no draft, one user, a plain cache: there is nothing to choose."""
    monkeypatch.setattr("halfwatt.search.stages.cores", lambda: 1)
    monkeypatch.setattr("halfwatt.search.stages.by_guesses", lambda _, at: [at])
    store = ScriptedStore(tmp_path)
    lab = Lab(ground.job, store, ground.lab(tmp_path).workload, "tune")
    assert [way.at.threads for way in lab.run(tune, TuneOrder(ground.b1, PLAN)).ways] == [1]
    assert store.computed == ["tune"]


def test_an_operating_point_is_chosen_on_brief_replies(
    ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An original that rambles to the cap says no more about threads for it."""
    caps = list[int]()

    def measured(arms: list[Arm], workload: Workload, *_: object) -> Run:
        caps.append(workload.cap)
        return run_of({arm.name: 1.0 for arm in arms})

    monkeypatch.setattr("halfwatt.evaluate.energy_protocol.measure", measured)
    lab = ground.lab(tmp_path)
    lab.run(tune, TuneOrder(ground.b1, PLAN))
    assert set(caps) == {lab.workload.brief().cap}
    caps.clear()
    lab.run(measure, MeasureOrder((ground.b1,), PLAN))
    assert caps == [lab.workload.cap], "what a reply costs is measured on whole ones"


def test_what_is_as_commonly_run_is_served_as_it_is(ground: Ground, tmp_path: Path) -> None:
    lab = ground.lab(tmp_path, {"measure": lambda _: pytest.fail("nothing to choose")})
    assert lab.run(tune, TuneOrder(ground.b1, PLAN, fixed=True)).best == ground.b1.at


def test_what_was_written_but_not_noted_before_a_kill_is_taken_as_it_is(ground: Ground, tmp_path: Path) -> None:
    job = replace(ground.job, out=tmp_path)
    order = replace(order_of(ground.lab(tmp_path / "a"), Recipe("B0")), format=AS_COMMONLY_RUN)
    first, again = (
        Lab(job, ScriptedStore(tmp_path / name), ground.lab(tmp_path / name).workload, "tune").run(build, order)
        for name in ("b", "c")
    )
    assert first.artifact is not None
    assert again == first
