"""Stages are computed once, survive a crash, and belong to one run."""

from __future__ import annotations

from pathlib import Path

import pytest

from halfwatt.errors import BadInput
from halfwatt.estimate import Estimate
from halfwatt.journal import Journal

WHOLE = Estimate(1.0, 0.5, 1.5, "J", 3)


def test_a_finished_stage_is_not_computed_again(tmp_path: Path) -> None:
    calls: list[int] = []

    def compute() -> Estimate:
        calls.append(1)
        return WHOLE

    for _ in range(2):  # the second time as another process would: from the disk
        assert Journal(tmp_path / "stages", {"model": "a"}).once("one", Estimate, compute) == WHOLE
    assert len(calls) == 1


def test_a_stage_that_failed_is_computed_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "stages", {"model": "a"})

    def broken() -> Estimate:
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        journal.once("one", Estimate, broken)
    assert not (tmp_path / "stages" / "one.json").exists()
    assert journal.once("one", Estimate, lambda: WHOLE) == WHOLE


def test_another_run_is_refused_by_name(tmp_path: Path) -> None:
    Journal(tmp_path / "stages", {"model": "a", "seed": "0"})
    with pytest.raises(BadInput, match="another seed"):
        Journal(tmp_path / "stages", {"model": "a", "seed": "1"})
