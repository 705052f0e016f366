"""Disturbances are named with their size, from a fake procfs and sysfs."""

from __future__ import annotations

import os
from collections import namedtuple
from pathlib import Path

import psutil
import pytest

from halfwatt.evaluate.disturbances import Snapshot, disturbances, snapshot

QUIET = Snapshot(busy_s=100.0, steal_s=0.0, capacity_s=1000.0, major_faults=5, on_mains=True, temperature_c=50.0)


def later(**changes: object) -> Snapshot:
    values = {
        "busy_s": 110.0,
        "steal_s": 0.0,
        "capacity_s": 1040.0,
        "major_faults": 5,
        "on_mains": True,
        "temperature_c": 50.0,
    }
    return Snapshot(**(values | changes))  # type: ignore[arg-type]


def test_own_work_is_no_disturbance() -> None:
    assert disturbances(QUIET, later(), own_cpu_s=10.0) == ()


@pytest.mark.parametrize(
    ("after", "own_cpu_s", "named"),
    [
        (later(busy_s=113.0), 10.0, "foreign CPU load 8%"),
        (later(steal_s=1.0), 10.0, "2.5% of the CPU time stolen"),
        (later(major_faults=500), 10.0, "495 pages read back"),
        (later(on_mains=False), 10.0, "power source changed"),
        (later(temperature_c=54.0), 10.0, "temperature moved by 4.0 C"),
    ],
)
def test_each_disturbance_is_named(after: Snapshot, own_cpu_s: float, named: str) -> None:
    (cause,) = disturbances(QUIET, after, own_cpu_s)
    assert named in cause


def test_what_the_system_does_not_tell_is_not_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path))
    nothing = snapshot(tmp_path)
    assert nothing == Snapshot(None, None, None, None, None, None)
    assert disturbances(nothing, nothing, own_cpu_s=1.0) == ()


def test_reads_the_kernels_own_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proc, sys = tmp_path / "proc", tmp_path / "sys"
    (proc).mkdir()
    (proc / "stat").write_text("cpu  100 10 50 800 40 0 0 7 20 0\ncpu0 1 2 3 4 5 6 7 8 9 0\n")
    (proc / "vmstat").write_text("pgfault 900\npgmajfault 12\n")
    mains = sys / "class/power_supply/AC"
    mains.mkdir(parents=True)
    (mains / "type").write_text("Mains\n")
    (mains / "online").write_text("1\n")
    zone = sys / "class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "temp").write_text("61500\n")
    tick = os.sysconf("SC_CLK_TCK")
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(proc))
    now = snapshot(sys)
    assert (now.busy_s, now.steal_s, now.capacity_s) == pytest.approx((160 / tick, 7 / tick, 1007 / tick))
    assert (now.major_faults, now.on_mains, now.temperature_c) == (12, True, 61.5)
    (mains / "online").write_text("0\n")
    assert snapshot(sys).on_mains is False


def test_a_system_that_accounts_for_less_is_judged_by_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Times = namedtuple("Times", ["user", "nice", "system", "idle"])  # as on macOS
    monkeypatch.setattr(psutil, "cpu_times", lambda: Times(50.0, 1.0, 9.0, 40.0))
    now = snapshot(tmp_path)
    assert (now.busy_s, now.steal_s, now.capacity_s) == (60.0, 0.0, 100.0)
