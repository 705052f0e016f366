"""RAPL on trees that wrap, hide, lie and break: the right joules, or an error that says why."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from halfwatt.core.errors import MeterError
from halfwatt.meters import rapl
from halfwatt.meters.base import align
from halfwatt.meters.counter import CounterMeter
from tests.contracts import meters as contract
from tests.meters.fake_tree import RANGE_UJ, World

DENIED = PermissionError(errno.EACCES, "Permission denied")


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.standard()
    return made


@pytest.fixture
def meter(world: World) -> Iterator[CounterMeter]:
    opened = total(world)
    yield opened
    opened.close()


def total(world: World) -> CounterMeter:
    return rapl.open_total(world.root, world.read_text, world.clock)


def spent(world: World, meter: CounterMeter, seconds: float = 1.0) -> float:
    before = meter.read().joules
    world.pass_time(seconds)
    return meter.read().joules - before


def test_the_contract(world: World, meter: CounterMeter) -> None:
    contract.says_what_it_is(meter)
    contract.keeps_counting(meter, world.pass_time, watts=13)
    contract.raises_when_broken(meter, world.failing("intel-rapl:0", DENIED), "sudo chmod")
    contract.closes_twice(meter)


def test_package_and_dram_are_added_core_is_inside_and_psys_is_apart(world: World, meter: CounterMeter) -> None:
    psys = rapl.open_psys(world.root, world.read_text, world.clock)
    assert psys is not None
    before = psys.read().joules
    assert spent(world, meter) == pytest.approx(13, abs=0.05)
    assert psys.read().joules - before == pytest.approx(18, abs=0.05)
    psys.close()
    assert meter.info.name == "rapl:package+dram"
    assert meter.info.grade == "B"
    assert meter.info.period_s == pytest.approx(0.001, rel=0.2)


@pytest.mark.parametrize("wrapping", ["intel-rapl:0", "intel-rapl:0:2"])
def test_one_zone_wraps_in_the_middle_of_a_run(tmp_path: Path, wrapping: str) -> None:
    world = World(tmp_path)
    starts = {name: RANGE_UJ - 5_000_000 if name == wrapping else 7 for name in ("intel-rapl:0", "intel-rapl:0:2")}
    world.zone("intel-rapl:0", "package-0", watts=10, start_uj=starts["intel-rapl:0"])
    world.zone("intel-rapl:0/intel-rapl:0:2", "dram", watts=3, start_uj=starts["intel-rapl:0:2"])
    meter = total(world)
    assert spent(world, meter, 10.0) == pytest.approx(130, abs=0.1)
    assert int(world.read_text(next(world.root.rglob(wrapping)) / "energy_uj")) < 200_000_000
    meter.close()


def test_permission_lost_half_way_is_an_error_with_the_command(world: World, meter: CounterMeter) -> None:
    assert spent(world, meter) > 0
    world["intel-rapl:0:2"].fault = DENIED
    with pytest.raises(MeterError, match=r"may not be read.*sudo chmod -R a\+r"):
        meter.read()


def test_permission_missing_from_the_start_is_a_finding(world: World) -> None:
    world["intel-rapl:0"].fault = DENIED
    found = {f.name: f for f in rapl.findings(world.root, world.read_text)}
    assert not found["rapl:package+dram"].available
    assert "sudo chmod" in (found["rapl:package+dram"].reason or "")


def test_a_counter_stuck_at_zero_is_refused(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.zone("intel-rapl:0", "package-0", watts=0, start_uj=0)
    with pytest.raises(MeterError, match=r"stands still.*0\.000 J"):
        total(world)


def test_a_counter_that_stops_later_is_never_zero_joules(
    world: World, meter: CounterMeter, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("intel-rapl:0", "intel-rapl:0:2"):
        world[name].start_uj, world[name].watts = int(world.read_text(_energy(world, name))), 0
    monkeypatch.setattr("halfwatt.meters.base.time.sleep", lambda _: None)
    with pytest.raises(MeterError, match="did not move"):
        align(meter, timeout_s=0.05)


def _energy(world: World, name: str) -> Path:
    return next(world.root.rglob(name)) / "energy_uj"


def test_dram_that_stands_still_is_left_out_and_said(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.zone("intel-rapl:0", "package-0", watts=10)
    world.zone("intel-rapl:0/intel-rapl:0:2", "dram", watts=0, start_uj=0)
    meter = total(world)
    assert meter.info.name == "rapl:package"
    assert "DRAM" in meter.info.not_covered
    assert spent(world, meter) == pytest.approx(10, abs=0.05)
    meter.close()


def test_a_counter_that_disappears(world: World, meter: CounterMeter) -> None:
    contract.raises_when_broken(
        meter, world.failing("intel-rapl:0", FileNotFoundError(errno.ENOENT, "gone")), "is gone"
    )


def test_a_fall_that_is_no_wrap_is_a_reset_and_final(world: World, meter: CounterMeter) -> None:
    world["intel-rapl:0"].start_uj = 150_000_000_000
    other = total(world)
    other.read()
    world["intel-rapl:0"].start_uj = 100_000_000_000
    for _ in range(2):
        with pytest.raises(MeterError, match="no wrap"):
            other.read()
    other.close()


def test_a_jump_that_no_processor_can_draw_is_refused(world: World, meter: CounterMeter) -> None:
    world["intel-rapl:0"].start_uj += 90_000_000_000
    with pytest.raises(MeterError, match="more than its source can draw"):
        meter.read()


def test_too_long_unread_may_hide_a_second_wrap(world: World, meter: CounterMeter) -> None:
    world.pass_time(3600)
    with pytest.raises(MeterError, match="wrapped more than once"):
        meter.read()


def test_the_same_package_through_mmio_counts_once(world: World) -> None:
    world.zone("intel-rapl-mmio:0", "package-0", watts=10)
    meter = total(world)
    assert spent(world, meter) == pytest.approx(13, abs=0.05)
    meter.close()


def test_two_dies_are_two_packages(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.zone("intel-rapl:0", "package-0-die-0", watts=40)
    world.zone("intel-rapl:1", "package-0-die-1", watts=50)
    meter = total(world)
    assert spent(world, meter) == pytest.approx(90, abs=0.2)
    assert "2 processor packages" in meter.info.covers
    meter.close()


def test_links_as_in_sys_class_count_once(world: World) -> None:
    (world.root / "intel-rapl:0:2").symlink_to(world.root / "intel-rapl:0/intel-rapl:0:2")
    assert [z.name for z in rapl.zones(world.root, world.read_text)].count("dram") == 1


def test_a_guests_share_is_modelled_not_measured(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.zone("intel-rapl:0", None, watts=10)
    meter = total(world)
    assert (meter.info.kind, meter.info.grade) == ("modelled", "D")
    assert meter.info.ratio_error > 0
    meter.close()


def test_no_tree_says_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(MeterError, match="no RAPL package"):
        rapl.open_total(tmp_path)
