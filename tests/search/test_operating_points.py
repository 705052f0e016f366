"""Which operating points are tried."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from halfwatt.formats.artifact import Artifact
from halfwatt.runtimes.base import OperatingPoint, Speculation
from halfwatt.search import operating_points


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
