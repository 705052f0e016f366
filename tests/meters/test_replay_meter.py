"""A recorded trace plays the same joules again, says that it is a replay, and ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from halfwatt.core.errors import BadInput, MeterError
from halfwatt.meters import rapl
from tests.contracts import meters as contract
from tests.meters.fake_tree import World
from tests.support import replay_meter


@pytest.fixture
def world(tmp_path: Path) -> World:
    tree = World(tmp_path)
    tree.standard()
    return tree


@pytest.fixture
def trace(world: World, tmp_path: Path) -> Path:
    meter = rapl.open_total(world.root, world.read_text, world.clock)
    path = replay_meter.record(meter, 6.0, tmp_path / "trace.jsonl", period_s=0.05, clock=world.clock)
    meter.close()
    return path


def test_a_trace_plays_what_was_recorded(world: World, trace: Path) -> None:
    meter = replay_meter.ReplayMeter(replay_meter.load(trace), world.clock)
    contract.says_what_it_is(meter)
    contract.keeps_counting(meter, world.pass_time, watts=13)
    contract.raises_when_broken(meter, lambda: world.pass_time(10), "is over")
    contract.closes_twice(meter)
    assert meter.info.kind == "replayed"
    assert meter.info.name == "replay:rapl:package+dram"


def test_a_meter_that_fails_leaves_no_trace(world: World, tmp_path: Path) -> None:
    meter = rapl.open_total(world.root, world.read_text, world.clock)
    world["intel-rapl:0"].fault = PermissionError()
    with pytest.raises(MeterError):
        replay_meter.record(meter, 1.0, tmp_path / "none.jsonl", clock=world.clock)
    meter.close()
    assert not (tmp_path / "none.jsonl").exists()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda lines: lines[1:], "is not a trace"),
        (lambda lines: [lines[0].replace('"halfwatt_trace": 1', '"halfwatt_trace": 2'), *lines[1:]], "format 2"),
        (lambda lines: [*lines[:4], '{"t_s": 0.0, "joules": 9.0}'], ":5 runs backwards"),
        (lambda lines: lines[:2], "is not a trace"),
    ],
)
def test_a_damaged_trace_is_named(trace: Path, edit: object, message: str) -> None:
    trace.write_text("\n".join(edit(trace.read_text().splitlines())))  # type: ignore[operator]
    with pytest.raises(BadInput, match=message):
        replay_meter.load(trace)
