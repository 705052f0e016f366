"""NVIDIA boards through NVML's total-energy counter (Volta and later). Device scope: the whole board, nothing else.

The counter is in millijoules since the driver was loaded and moves in steps, every 20 to 100 ms by published accounts;
the period is measured when the meter is opened.
"""

from __future__ import annotations

import time
from typing import Any

from halfwatt.errors import MeterError
from halfwatt.meters.base import Finding
from halfwatt.records import MeterInfo, Reading

_HINT = "pip install 'halfwatt[nvidia]'"


class NvmlMeter:
    """One board."""

    def __init__(self, nvml: Any, handle: Any, index: int) -> None:
        self._nvml, self._handle, self._index = nvml, handle, index
        self._last = self._joules()
        period_s, step_j = self._measure_period()
        name = nvml.nvmlDeviceGetName(handle)
        self.info = MeterInfo(
            name=f"nvml:{index}",
            domain=f"gpu {index} board ({name})",
            kind="measured",
            grade="B",
            covers="the whole NVIDIA board: GPU, memory, regulators",
            not_covered="CPU, system memory, power supply losses",
            period_s=period_s,
            step_j=step_j,
            ratio_error=0.0,
        )

    def read(self) -> Reading:
        """Joules since the driver was loaded.

        Raises:
            MeterError: the board does not answer, or its counter fell (driver reloaded).
        """
        joules = self._joules()
        if joules < self._last:
            raise MeterError(
                f"nvml:{self._index} fell from {self._last:.1f} to {joules:.1f} J",
                hint="the driver was reloaded: measure again",
            )
        self._last = joules
        return Reading(time.monotonic(), joules)

    def close(self) -> None:
        """Let go of the library."""
        self._nvml.nvmlShutdown()

    def _joules(self) -> float:
        try:
            return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1000
        except self._nvml.NVMLError as error:
            raise MeterError(f"nvml:{self._index} cannot be read", found=str(error), hint="run nvidia-smi") from error

    def _measure_period(self, *, updates: int = 8, limit_s: float = 2.0) -> tuple[float, float]:
        """(seconds, joules) between updates: the median over a few, watched at 1 ms."""
        from statistics import median

        seen: list[tuple[float, float]] = []
        begun = time.monotonic()
        while len(seen) <= updates and time.monotonic() - begun < limit_s:
            joules = self._joules()
            if not seen or joules != seen[-1][1]:
                seen.append((time.monotonic(), joules))
            time.sleep(0.001)
        if len(seen) < 4:
            raise MeterError(
                f"nvml:{self._index} did not move in {limit_s:.0f} s", found=f"{self._last:.1f} J", hint="run nvidia-smi"
            )
        steps = [(b[0] - a[0], b[1] - a[1]) for a, b in zip(seen[1:], seen[2:], strict=False)]
        return median(s[0] for s in steps), median(s[1] for s in steps)


def open_all() -> list[NvmlMeter]:
    """A meter for each board that has the counter; empty where there is no NVIDIA driver or library."""
    nvml = _library()
    if isinstance(nvml, str):
        return []
    meters = []
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            meters.append(NvmlMeter(nvml, nvml.nvmlDeviceGetHandleByIndex(index), index))
        except MeterError:
            continue  # findings() says why
    return meters


def findings() -> list[Finding]:
    """One line a board, or why there is none."""
    covers = "whole NVIDIA board"
    nvml = _library()
    if isinstance(nvml, str):
        return [Finding("nvml", "gpu board", "B", covers, False, nvml)]
    found = []
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            NvmlMeter(nvml, nvml.nvmlDeviceGetHandleByIndex(index), index)
            reason = None
        except MeterError as error:
            reason = str(error)
        found.append(Finding(f"nvml:{index}", f"gpu {index} board", "B", covers, reason is None, reason))
    return found or [Finding("nvml", "gpu board", "B", covers, False, "the driver sees no NVIDIA board")]


def _library() -> Any:
    """The initialised module, or in words why there is none."""
    try:
        import pynvml
    except ImportError:
        return f"the package nvidia-ml-py is not installed: {_HINT}"
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return f"no NVIDIA driver answers ({error}): install the driver, then run nvidia-smi"
    return pynvml
