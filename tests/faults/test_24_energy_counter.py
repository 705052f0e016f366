"""A counter that is missing, unreadable, stands still or goes backwards is an error, never 0 J; a wrap is counted."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from halfwatt.core.errors import MeterError
from halfwatt.meters import rapl
from halfwatt.meters.base import align
from tests.meters.fake_tree import RANGE_UJ, World
from tests.support.command_line import halfwatt
from tests.support.hasty_optimize import SETTINGS
from tests.support.refusals import refused


def test_a_tree_that_stands_still_is_refused(tmp_path: Path, model: Path, chats: Path) -> None:
    World(tmp_path).standard()  # its files hold 0, and nothing moves them
    line: list[str | Path] = ["measure", model, "-d", chats, "--rapl-root", tmp_path / "powercap"]
    refused(*line, says=("rapl",), within=tmp_path, code=3, base=SETTINGS)


def test_where_there_is_none_no_joules_are_stated(tmp_path: Path, model: Path, chats: Path) -> None:
    done = halfwatt("measure", model, "-d", chats, "--json", base=SETTINGS)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    measured = told["measurement"]
    if measured["kind"] == "measured":
        pytest.skip("there is a counter on this machine")
    assert measured["kind"] == "modelled"
    assert measured["grade"] == "E"
    assert measured["j_per_reply"] is None or measured["j_per_reply"]["mean"] > 0


@pytest.mark.parametrize(
    ("fault", "says"),
    [("unreadable", "sudo"), ("backwards", "fell"), ("too fast", "draw"), ("stands still", "did not move")],
)
def test_a_counter_that_fails_half_way_is_an_error(
    fault: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path)
    zone = world.zone("intel-rapl:0", "package-0", watts=10)
    meter = rapl.open_total(world.root, world.read_text, world.clock)
    world.pass_time(1.0)
    assert meter.read().joules > 0
    if fault == "unreadable":
        zone.fault = PermissionError(errno.EACCES, "Permission denied")
    elif fault == "backwards":
        zone.start_uj, zone.watts = 0, 0.0
    elif fault == "too fast":
        zone.watts = 1e6
    else:
        zone.start_uj, zone.watts = int(world.read_text(next(world.root.rglob("energy_uj")))), 0.0
        monkeypatch.setattr("halfwatt.meters.base.time.sleep", lambda _: None)
    world.pass_time(0.0 if fault == "stands still" else 1.0)
    with pytest.raises(MeterError, match=says):
        align(meter, timeout_s=0.05) if fault == "stands still" else meter.read()
    meter.close()


def test_a_wrap_is_counted(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.zone("intel-rapl:0", "package-0", watts=10, start_uj=RANGE_UJ - 5_000_000)
    meter = rapl.open_total(world.root, world.read_text, world.clock)
    before = meter.read().joules
    world.pass_time(1.0)
    assert meter.read().joules - before == pytest.approx(10, abs=0.1)
    meter.close()
