"""What work costs: laps, sittings, and what does not count."""

from __future__ import annotations

from pathlib import Path

import pytest

from halfwatt.meters.base import MeterInfo, Reading
from halfwatt.meters.cost import Cost, CostMeter, RunCost

INFO = MeterInfo("rapl", "cpu", "measured", "B", "cpu", "the rest", 0.001, 6e-5, 0.0)


class SteppingMeter:
    """Ten joules between two looks."""

    info = INFO

    def __init__(self) -> None:
        self.joules = 0.0

    def read(self) -> Reading:
        self.joules += 10.0
        return Reading(0.0, self.joules)

    def close(self) -> None:
        return None


def test_two_parts_add_up_and_a_part_without_a_meter_adds_no_joules() -> None:
    first = Cost(tokens=10, wall_s=2.0, cpu_s=4.0, bytes_b=100, joules=7.0, meter="rapl", device="cpu")
    assert first + Cost(tokens=1, wall_s=1.0, cpu_s=1.0, bytes_b=1) == Cost(11, 3.0, 5.0, 101, 7.0, "rapl", "cpu")
    assert (first + first).joules == 14.0
    assert (Cost() + Cost()).joules is None, "not measured is absent, not 0"
    assert first - Cost(tokens=4, joules=2.0) == Cost(6, 2.0, 4.0, 100, 5.0, "rapl", "cpu")


def test_a_lap_is_what_lies_between_two_looks() -> None:
    laps = CostMeter(SteppingMeter(), "cuda")
    for _ in range(2):
        lap = laps.lap(tokens=5, bytes_b=9)
        assert (lap.tokens, lap.bytes_b, lap.joules, lap.meter, lap.device) == (5, 9, 10.0, "rapl", "cuda")
        assert 0 <= lap.wall_s < 1.0
    unmetered = CostMeter().lap(tokens=5, bytes_b=9)
    assert (unmetered.joules, unmetered.meter, unmetered.device) == (None, None, None)


def test_a_run_adds_up_its_sittings_without_what_is_aside(tmp_path: Path) -> None:
    first = RunCost(tmp_path, SteppingMeter())  # looks once
    first.note()
    assert first.total().joules == 10.0
    with first.training() as trained, first.training():  # two looks; once, though it is twice aside
        trained += [Cost(joules=6.0)] * 2  # as of a teacher that two students heard
    first.note()
    assert first.total().joules == 34.0
    with first.training():  # that came to nothing
        pass
    with first.training() as trained:
        trained += [Cost(joules=6.0), Cost(joules=1000.0)]  # one that is known; most of the other in another sitting
    first.note()
    assert first.total().joules == 74.0
    second = RunCost(tmp_path)
    second.note()
    total = second.total()
    assert (total.joules, total.meter) == (74.0, "rapl")
    assert total.wall_s == pytest.approx(0.0, abs=5.0)
