"""Batteries and board sensors on made-up trees."""

from __future__ import annotations

from pathlib import Path

import pytest

from halfwatt.core.errors import MeterError
from halfwatt.meters import hwmon
from halfwatt.meters.ticks import Clock
from tests.contracts import meters as contract


def write(root: Path, **files: str | int) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (root / name).write_text(str(text))
    return root


def battery(root: Path, status: str = "Discharging", **files: int) -> Path:
    return write(root / "power_supply" / "BAT0", type="Battery", status=status, **files)


def watts(root: Path) -> float:
    sensor = hwmon.sensors(root)[0]
    assert sensor.power
    return sensor.look()


def test_a_battery_that_feeds_the_machine_is_the_whole_system(tmp_path: Path) -> None:
    battery(tmp_path, power_now=12_500_000)
    sensor = hwmon.sensors(tmp_path)[0]
    assert (sensor.info.domain, sensor.info.grade) == (hwmon.WHOLE, "A")
    assert watts(tmp_path) == 12.5


def test_current_times_voltage_where_there_is_no_power(tmp_path: Path) -> None:
    battery(tmp_path, current_now=-1_500_000, voltage_now=12_000_000)
    assert watts(tmp_path) == pytest.approx(18.0)


@pytest.mark.parametrize("status", ["Charging", "Full", "Not charging"])
def test_on_mains_a_battery_measures_nothing(tmp_path: Path, status: str) -> None:
    battery(tmp_path, status, power_now=12_500_000)
    with pytest.raises(MeterError, match="unplug the charger"):
        watts(tmp_path)
    assert not hwmon.findings(tmp_path)[0].available


def test_a_gauge_that_shows_nothing_is_not_zero_watts(tmp_path: Path) -> None:
    battery(tmp_path, power_now=0)
    with pytest.raises(MeterError, match="0 W"):
        watts(tmp_path)


def test_the_battery_of_a_mouse_is_none_of_ours(tmp_path: Path) -> None:
    write(tmp_path / "power_supply" / "hid", type="Battery", scope="Device", status="Discharging", power_now=1)
    assert hwmon.sensors(tmp_path) == []


def test_rails_counters_and_the_boards_own_meter(tmp_path: Path) -> None:
    write(tmp_path / "hwmon" / "hwmon0", name="ina3221", in1_label="VDD_IN", in1_input=5000, curr1_input=900)
    write(tmp_path / "hwmon" / "hwmon1", name="xe", energy1_input=4_000_000)
    write(tmp_path / "hwmon" / "hwmon2", name="power_meter", power1_average=230_000_000)
    sensors = {sensor.info.name: sensor for sensor in hwmon.sensors(tmp_path)}
    rail, counter, board = (
        sensors[n] for n in ("hwmon0:ina3221:VDD_IN", "hwmon1:xe:energy1", "hwmon2:power_meter:power1")
    )
    assert (rail.look(), rail.power, rail.info.grade, rail.info.domain) == (4.5, True, "C", hwmon.WHOLE)
    assert (counter.look(), counter.power, counter.info.grade) == (4.0, False, "B")
    assert (board.look(), board.info.domain, board.info.grade) == (230.0, hwmon.WHOLE, "A")


def test_an_energy_counter_keeps_the_contract(tmp_path: Path) -> None:
    now = [100.0]

    def pass_time(seconds: float) -> None:
        now[0] += seconds

    def read_text(path: Path) -> str:
        if path.name == "energy1_input":
            return str(round(now[0] / 0.002) * 2 * 20_000)  # 20 W in steps of 2 ms
        return path.read_text()

    write(tmp_path / "hwmon" / "hwmon0", name="xe", energy1_input=0)
    clock = Clock(now=lambda: now[0], sleep=pass_time)
    meter = hwmon.open_sensor(hwmon.sensors(tmp_path, read_text)[0], clock)
    contract.says_what_it_is(meter)
    contract.keeps_counting(meter, pass_time, watts=20)
    contract.closes_twice(meter)


def test_nothing_there_says_what_to_do(tmp_path: Path) -> None:
    reasons = {f.name: f.reason or "" for f in hwmon.findings(tmp_path)}
    assert "sensors-detect" in reasons["hwmon"]
    assert "wall meter" in reasons["battery"]
