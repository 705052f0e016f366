"""Which meter a run takes, and what doctor says about the others."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from halfwatt.core.errors import MeterError
from halfwatt.meters import discover
from tests.meters.test_hwmon import battery


@pytest.fixture(autouse=True)
def no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)


def test_a_machine_without_meters_has_none(tmp_path: Path) -> None:
    assert discover.choose("cpu", class_root=tmp_path) == discover.Chosen(None, ())
    assert discover.available(class_root=tmp_path) == []


def test_a_laptop_on_battery_is_measured_whole(tmp_path: Path) -> None:
    battery(tmp_path, power_now=9_000_000)
    chosen = discover.choose("cpu", class_root=tmp_path)
    assert chosen.primary is not None
    assert chosen.primary.info.grade == "A"
    chosen.primary.close()


def test_a_tree_that_the_user_named_must_be_usable(tmp_path: Path) -> None:
    with pytest.raises(MeterError, match="no RAPL package"):
        discover.choose("cpu", rapl_root=tmp_path / "nowhere", class_root=tmp_path)


def test_every_kind_is_listed_with_a_reason(tmp_path: Path) -> None:
    found = {f.name: f for f in discover.findings(class_root=tmp_path)}
    assert set(found) == {"rapl:package+dram", "nvml", "battery", "hwmon", "modelled"}
    assert all(f.reason for f in found.values() if not f.available)
    assert [f.name for f in found.values() if f.available] == ["modelled"]
