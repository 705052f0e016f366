"""A powercap tree whose counters follow a clock that the test owns: watts in, microjoules out.

world = World(tmp_path)
world.zone("intel-rapl:0", "package-0", watts=10)
meter = rapl.open_total(world.root, world.read_text, world.clock)
world.pass_time(1.0)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from halfwatt.meters.ticks import Clock

RANGE_UJ = 262_143_328_850  # of a real Intel package
TICK_S = 0.001


@dataclass
class Zone:
    """One counter. ``fault`` is raised in place of a number."""

    watts: float
    start_uj: int
    range_uj: int
    fault: OSError | None = None


class World:
    """The tree and its time."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "powercap"
        self.root.mkdir(parents=True)
        self._now = 1000.0
        self._zones: dict[Path, Zone] = {}

    @property
    def clock(self) -> Clock:
        return Clock(now=lambda: self._now, sleep=self.pass_time)

    def pass_time(self, seconds: float) -> None:
        self._now += seconds

    def zone(
        self, folder: str, name: str | None, *, watts: float, start_uj: int = 5_000_000, range_uj: int = RANGE_UJ
    ) -> Zone:
        """Add ``folder`` ("intel-rapl:0", or "intel-rapl:0/intel-rapl:0:2"); a share of a guest has no name."""
        path = self.root / folder
        path.mkdir(parents=True)
        (path / "energy_uj").write_text("0")
        (path / "max_energy_range_uj").write_text(str(range_uj))
        if name is not None:
            (path / "name").write_text(f"{name}\n")
        self._zones[path] = Zone(watts, start_uj, range_uj)
        return self._zones[path]

    def standard(self) -> None:
        """One socket as Intel shows it: package 10 W, core 8 W inside it, DRAM 3 W, platform 18 W."""
        self.zone("intel-rapl:0", "package-0", watts=10)
        self.zone("intel-rapl:0/intel-rapl:0:0", "core", watts=8)
        self.zone("intel-rapl:0/intel-rapl:0:2", "dram", watts=3)
        self.zone("intel-rapl:1", "psys", watts=18)

    def __getitem__(self, name: str) -> Zone:
        return next(zone for path, zone in self._zones.items() if path.name == name)

    def read_text(self, path: Path) -> str:
        """In place of Path.read_text: permission and faults work for root too."""
        if path.name != "energy_uj":
            return path.read_text()
        zone = self._zones[path.parent]
        if zone.fault is not None:
            raise zone.fault
        ticks = int((self._now - 1000.0) / TICK_S)
        return str((zone.start_uj + round(zone.watts * ticks * TICK_S * 1e6)) % zone.range_uj)

    def failing(self, name: str, fault: OSError) -> Callable[[], None]:
        """A function that makes a zone fail from then on."""

        def fail() -> None:
            self[name].fault = fault

        return fail
