"""Stages are computed once, survive a crash, and belong to one run."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from halfwatt.core.errors import BadInput
from halfwatt.core.estimate import Estimate
from halfwatt.formats.artifact import Artifact
from halfwatt.meters.cost import Cost, RunCost
from halfwatt.runtimes.base import OperatingPoint
from halfwatt.search.lab import Contender
from halfwatt.search.stage_store import StageStore, hash_of

WHOLE = Estimate(1.0, 0.5, 1.5, "J", 3)


def test_a_finished_stage_is_not_computed_again(tmp_path: Path) -> None:
    calls: list[int] = []

    def compute() -> Estimate:
        calls.append(1)
        return WHOLE

    for _ in range(2):  # the second time as another process would: from the disk
        assert StageStore(tmp_path / "stages", {"model": "a"}).once("one", Estimate, compute) == WHOLE
    assert len(calls) == 1


def test_a_stage_that_failed_is_computed_again(tmp_path: Path) -> None:
    store = StageStore(tmp_path / "stages", {"model": "a"})

    def broken() -> Estimate:
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        store.once("one", Estimate, broken)
    assert not (tmp_path / "stages" / "one.json").exists()
    assert store.once("one", Estimate, lambda: WHOLE) == WHOLE


def test_another_run_is_refused_by_name(tmp_path: Path) -> None:
    StageStore(tmp_path / "stages", {"model": "a", "seed": "0"})
    with pytest.raises(BadInput, match="another seed"):
        StageStore(tmp_path / "stages", {"model": "a", "seed": "1"})


def test_the_tally_adds_sittings_counts_children_and_leaves_trainings_aside(tmp_path: Path) -> None:
    burn = "import time\nwhile time.process_time() < {}: pass"
    first = RunCost(tmp_path)
    subprocess.run([sys.executable, "-c", burn.format(0.3)], check=True)
    with first.training() as trained:
        subprocess.run([sys.executable, "-c", burn.format(0.8)], check=True)
        trained.append(Cost(cpu_s=0.7))
    first.note()
    alone = first.total()
    assert 0.35 < alone.cpu_s < 0.7, "the child counts, what it says that it learned for does not"
    assert alone.joules is None, "there is no meter"
    second = RunCost(tmp_path)
    second.note()
    second.note()  # the same sitting again
    assert alone.cpu_s <= second.total().cpu_s < alone.cpu_s + 0.2


def test_whatever_a_run_finishes_is_noted(tmp_path: Path) -> None:
    store = StageStore(tmp_path, {})
    assert store.cost.total().wall_s == 0
    store.once("stage", int, lambda: time.sleep(0.05) or 3)  # type: ignore[func-returns-value]
    took = store.cost.total().wall_s
    assert took >= 0.05
    again = StageStore(tmp_path, {})
    assert again.once("stage", int, lambda: 4) == 3
    assert again.cost.total().wall_s == took, "nothing was done in this sitting"


def test_an_order_is_named_by_all_that_it_holds_but_where_files_lie() -> None:
    artifact = Artifact(Path("here"), "llamacpp", "int4", 1, 1, 1, "sha", ())
    order = Contender("a", artifact, OperatingPoint(threads=1))
    moved = replace(order, artifact=replace(artifact, path=Path("there")))
    assert hash_of(order) == hash_of(moved)
    others = [
        replace(order, name="b"),
        replace(order, at=OperatingPoint(threads=2)),
        replace(order, artifact=replace(artifact, sha256="other")),
    ]
    assert len({hash_of(each) for each in (order, *others)}) == 4


def test_a_stage_is_computed_once_for_each_order(tmp_path: Path) -> None:
    store = StageStore(tmp_path / "stages", {})
    assert store.run("tune", ("tune", 1), int, lambda: 1) == store.run("tune", ("tune", 1), int, lambda: 2) == 1
    assert store.run("tune", ("tune", 2), int, lambda: 2) == 2
    assert store.run("measure", ("tune", 1), int, lambda: 3) == 3
