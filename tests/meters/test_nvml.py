"""NVML against a module that plays a driver: steps, faults, slices, and a counter that disagrees with the power."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from halfwatt.core.errors import MeterError
from halfwatt.meters import nvml
from halfwatt.meters.nvml import NvmlMeter
from halfwatt.meters.ticks import Clock
from tests.contracts import meters as contract

STEP_S = 0.1


class NVMLError(Exception):
    """As in the real module."""


class NotSupported(NVMLError):
    """The board lacks the feature."""


class Driver(ModuleType):
    """A machine with boards of 300 W whose counters move every 100 ms."""

    NVMLError = NVMLError
    NVMLError_NotSupported = NotSupported
    NVML_DEVICE_MIG_ENABLE = 1
    NVML_GPU_VIRTUALIZATION_MODE_VGPU = 2
    NVML_FI_DEV_POWER_INSTANT = 186
    NVML_SUCCESS = 0
    NVML_CLOCK_SM = 1

    def __init__(self, boards: int = 1) -> None:
        super().__init__("pynvml")
        self.now, self.boards, self.users = 10.0, boards, 0
        self.watts, self.counter_watts, self.offset_mj = 300.0, 300.0, 0
        self.mig = self.virtual = 0
        self.counter: Callable[[], int] | None = self._counter
        self.driver = True
        self.usual_mw: int | None = 500_000

    @property
    def clock(self) -> Clock:
        return Clock(now=lambda: self.now, sleep=self.pass_time)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    def _counter(self) -> int:
        return round(int(self.now / STEP_S + 1e-9) * STEP_S * self.counter_watts * 1000) + self.offset_mj

    def nvmlInit(self) -> None:
        if not self.driver:
            raise NVMLError("Driver Not Loaded")
        self.users += 1

    def nvmlShutdown(self) -> None:
        self.users -= 1

    def nvmlDeviceGetCount(self) -> int:
        return self.boards

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        if index >= self.boards:
            raise NVMLError("Invalid Argument")
        return index

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return f"GPU-{handle}abc"

    def nvmlDeviceGetName(self, handle: int) -> str:
        return "Board X"

    def nvmlDeviceGetMigMode(self, handle: int) -> tuple[int, int]:
        return self.mig, self.mig

    def nvmlDeviceGetVirtualizationMode(self, handle: int) -> int:
        return self.virtual

    def nvmlDeviceGetPowerManagementLimitConstraints(self, handle: int) -> tuple[int, int]:
        return 100_000, 700_000

    def nvmlDeviceGetPowerManagementDefaultLimit(self, handle: int) -> int:
        if self.usual_mw is None:
            raise NotSupported("Not Supported")
        return self.usual_mw

    def nvmlDeviceGetMaxClockInfo(self, handle: int, kind: int) -> int:
        return 1980

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:
        if self.counter is None:
            raise NotSupported("Not Supported")
        return self.counter()

    def nvmlDeviceGetFieldValues(self, handle: int, fields: list[int]) -> list[Any]:
        class Value:
            nvmlReturn = 999

        return [Value()]

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:
        return round(self.watts * 1000)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    made = Driver()
    monkeypatch.setitem(sys.modules, "pynvml", made)
    return made


def test_the_contract(driver: Driver) -> None:
    meter = NvmlMeter(0, driver.clock)
    contract.says_what_it_is(meter)
    assert meter.info.period_s == pytest.approx(STEP_S, rel=0.05)
    contract.keeps_counting(meter, driver.pass_time, watts=300)

    def unplug() -> None:
        driver.counter = None

    contract.raises_when_broken(meter, unplug, "no energy counter")


def test_a_counter_that_falls_was_reset(driver: Driver) -> None:
    meter = NvmlMeter(0, driver.clock)
    driver.offset_mj = -1_000_000_000
    with pytest.raises(MeterError, match="reset"):
        meter.read()


def test_a_counter_that_stands_still_is_refused(driver: Driver) -> None:
    driver.counter = lambda: 0
    with pytest.raises(MeterError, match="stands still"):
        NvmlMeter(0, driver.clock)
    assert driver.users == 0


@pytest.mark.parametrize(("fault", "said"), [("mig", "divided by MIG"), ("virtual", "virtual GPU")])
def test_a_slice_of_a_board_is_refused(driver: Driver, fault: str, said: str) -> None:
    setattr(driver, fault, {"mig": 1, "virtual": 2}[fault])
    with pytest.raises(MeterError, match=said):
        NvmlMeter(0, driver.clock)
    assert driver.users == 0


def test_without_driver_or_package_the_finding_says_what_to_install(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.driver = False
    assert "no NVIDIA driver answers" in str(nvml.findings()[0].reason)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "pip install" in str(nvml.findings()[0].reason)
    assert nvml.count() == 0


def test_the_counter_and_the_power_must_agree(driver: Driver) -> None:
    meter = NvmlMeter(0, driver.clock)
    assert nvml.cross_check(meter).available
    driver.watts = 171.0
    found = nvml.cross_check(meter)
    assert not found.available
    assert "integrated power" in str(found.reason)


def test_limits_and_clocks_are_advice_and_nothing_is_set(driver: Driver) -> None:
    meter = NvmlMeter(0, driver.clock)
    said = meter.advice() or ""
    assert "nvidia-smi -i 0 -pl 350 (usual 500 W, lowest 100 W)" in said
    assert "-lgc 0,1386 (highest 1980 MHz)" in said
    driver.usual_mw = 120_000
    assert "-pl 100 " in str(meter.advice()), "never below what the board allows"
    driver.usual_mw = None
    assert meter.advice() is None
    assert not [name for name in dir(Driver) if name.startswith("nvmlDeviceSet")]


def test_the_board_that_cuda_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", Driver(boards=3))
    assert nvml.index_of(0, None, pci_order=True) == 0
    assert nvml.index_of(1, "2,1", pci_order=True) == 1
    assert nvml.index_of(0, "GPU-2", pci_order=False) == 2
    with pytest.raises(MeterError, match="no CUDA device 1"):
        nvml.index_of(1, "0", pci_order=True)
    with pytest.raises(MeterError, match="no whole board"):
        nvml.index_of(0, "MIG-1", pci_order=True)
