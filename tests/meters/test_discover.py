"""Which meter a run takes, and what doctor says about the others."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread

import pytest

from halfwatt.core.errors import MeterError
from halfwatt.core.machine import cores
from halfwatt.meters import discover
from halfwatt.meters.discover import Instruments
from halfwatt.meters.modelled import INFO
from tests.meters.fake_tree import World
from tests.meters.test_hwmon import battery


@pytest.fixture(autouse=True)
def no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)


def test_a_machine_without_meters_has_a_model_of_its_processor_and_none_of_a_gpu(tmp_path: Path) -> None:
    tools = discover.instruments("cpu", class_root=tmp_path)
    assert tools == Instruments(None, (), replace(INFO, cores=cores()))
    assert tools.info is not None
    assert (tools.info.kind, tools.info.grade, tools.infos) == ("modelled", "E", (tools.info,))
    assert discover.instruments("cuda", class_root=tmp_path) == Instruments(None)
    assert Instruments(None).info is None
    assert Instruments(None).infos == ()


def test_a_counter_of_the_platform_is_read_beside_the_model(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.zone("intel-rapl:1", "psys", watts=0)
    counter = world.root / "intel-rapl:1" / "energy_uj"
    with counting(counter):
        tools = discover.instruments("cpu", class_root=tmp_path)
    assert tools.primary is None
    assert [info.name for info in tools.infos] == ["modelled", "rapl:psys"]
    tools.close()


@contextmanager
def counting(counter: Path) -> Iterator[None]:
    """A counter in a real file that rises while the block runs."""
    done = Event()

    def count() -> None:
        while not done.wait(0.001):
            part = counter.with_suffix(".part")
            part.write_text(str(time.monotonic_ns() // 1000))
            part.replace(counter)

    thread = Thread(target=count)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def test_a_laptop_on_battery_is_measured_whole(tmp_path: Path) -> None:
    battery(tmp_path, power_now=9_000_000)
    tools = discover.instruments("cpu", class_root=tmp_path)
    assert tools.primary is not None
    assert tools.info == tools.primary.info
    assert tools.info.grade == "A"
    assert tools.model is None
    tools.close()


def test_a_tree_that_the_user_named_must_be_usable(tmp_path: Path) -> None:
    with pytest.raises(MeterError, match="no RAPL package"):
        discover.instruments("cpu", rapl_root=tmp_path / "nowhere", class_root=tmp_path)


def test_every_kind_is_listed_with_a_reason(tmp_path: Path) -> None:
    found = {f.name: f for f in discover.findings(class_root=tmp_path)}
    assert set(found) == {"rapl:package+dram", "nvml", "battery", "hwmon", "modelled"}
    assert all(f.reason for f in found.values() if not f.available)
    assert [f.name for f in found.values() if f.available] == ["modelled"]
