"""NVIDIA boards through NVML's total-energy counter (Volta and later). Device scope: the whole board, nothing else.

The counter is in millijoules since the driver was loaded and moves in steps; published accounts give 10 to 100 ms, so
the period is measured when the meter is opened (about 1 s). A slice of a board (MIG, vGPU) has no counter of its own
and is refused: the number would be the board's, other users included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

from halfwatt.core.errors import MeterError
from halfwatt.meters.base import Finding, MeterInfo, Reading
from halfwatt.meters.counter import Counter
from halfwatt.meters.ticks import REAL, Clock, tick_of

COVERS = "the whole NVIDIA board: GPU, memory, regulators"
LOWER = 0.7  # of the usual power limit and of the highest clock: where `NvmlMeter.advice` begins
AGREEMENT = 0.1  # counter against integrated power
_DEFAULT_MAX_W = 1500.0  # above any board; used where the driver does not tell the power limit
_POWER_PERIOD_S = 0.05  # between two looks at the power
_WATCH_S = 1.0  # at opening; two full periods of the counter must fit


class NvmlMeter:
    """One board."""

    def __init__(self, index: int, clock: Clock = REAL) -> None:
        """Open board ``index`` of NVML's order, which is by PCI address.

        Raises:
            MeterError: no library, no driver, no such board, no counter on it, a slice of a board, a counter that
                stands still; the message says what to do.
        """
        self._nvml, self._index, self._clock = _library(), index, clock
        try:
            with self._readable():
                self._handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
                self._refuse_slices()
                board = str(self._nvml.nvmlDeviceGetName(self._handle))
            limits = self._optional(self._nvml.nvmlDeviceGetPowerManagementLimitConstraints)
            self._counter = Counter(f"nvml:{index}", limits[1] / 1000 if limits else _DEFAULT_MAX_W)
            self.info = self._describe(board)
            self.read()
        except MeterError:
            self.close()
            raise

    def read(self) -> Reading:
        """Joules since the meter was opened.

        Raises:
            MeterError: the board does not answer, its counter fell (driver reloaded), or it jumped.
        """
        raw_j, t_s = self._raw_j(), self._clock.now()
        return Reading(t_s, self._counter.advance(t_s, raw_j))

    def watts(self) -> float:
        """Power right now. Not the counter: only for `cross_check`.

        Raises:
            MeterError: the board does not tell.
        """
        nvml = self._nvml
        with self._readable():
            value = nvml.nvmlDeviceGetFieldValues(self._handle, [nvml.NVML_FI_DEV_POWER_INSTANT])[0]
            if value.nvmlReturn == nvml.NVML_SUCCESS:
                return float(value.value.uiVal) / 1000
            return float(nvml.nvmlDeviceGetPowerUsage(self._handle)) / 1000

    def advice(self) -> str | None:
        """A lower power limit and lower clocks to try by hand; None where the board does not tell its own."""
        nvml = self._nvml
        with self._readable():
            limits = self._optional(nvml.nvmlDeviceGetPowerManagementLimitConstraints)
            usual = self._optional(nvml.nvmlDeviceGetPowerManagementDefaultLimit)
            clock = self._optional(nvml.nvmlDeviceGetMaxClockInfo, nvml.NVML_CLOCK_SM)
        if limits is None or usual is None or clock is None:
            return None
        lower_w = max(limits[0], LOWER * usual) / 1000
        smi = f"sudo nvidia-smi -i {self._index}"
        return (
            "chat replies wait for memory more than for arithmetic; to try by hand, then measure again: "
            f"{smi} -pl {lower_w:.0f} (usual {usual / 1000:.0f} W, lowest {limits[0] / 1000:.0f} W), or "
            f"{smi} -lgc 0,{LOWER * clock:.0f} (highest {clock} MHz)"
        )

    def close(self) -> None:
        """Let go of the library; it counts how often it was taken."""
        self._nvml.nvmlShutdown()

    def _raw_j(self) -> float:
        with self._readable():
            return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1000

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except self._nvml.NVMLError_NotSupported as error:
            hint = "Volta (2017) and later boards have one"
            raise MeterError(f"nvml:{self._index} has no energy counter", hint=hint) from error
        except self._nvml.NVMLError as error:
            hint = "run nvidia-smi to see its state"
            raise MeterError(f"nvml:{self._index} cannot be read", got=str(error), hint=hint) from error

    def _refuse_slices(self) -> None:
        nvml = self._nvml
        mode = self._optional(nvml.nvmlDeviceGetMigMode)
        if mode is not None and mode[0] == nvml.NVML_DEVICE_MIG_ENABLE:
            hint = f"an administrator can undivide it: sudo nvidia-smi -i {self._index} -mig 0"
            raise MeterError(f"nvml:{self._index} is divided by MIG, and the counter is the whole board's", hint=hint)
        if self._optional(nvml.nvmlDeviceGetVirtualizationMode) == nvml.NVML_GPU_VIRTUALIZATION_MODE_VGPU:
            hint = "use a guest that has the whole board (passthrough)"
            raise MeterError(f"nvml:{self._index} is a virtual GPU, and the counter is the whole board's", hint=hint)

    def _optional(self, ask: Callable[..., Any], *arguments: Any) -> Any:
        """What the driver answers about this board; None where it lacks the feature."""
        try:
            return ask(self._handle, *arguments)
        except self._nvml.NVMLError_NotSupported:
            return None

    def _describe(self, board: str) -> MeterInfo:
        tick = tick_of(self._raw_j, poll_s=0.001, limit_s=_WATCH_S, clock=self._clock)
        if tick is None:
            hint = "run nvidia-smi -q -d POWER to see its state"
            raise MeterError(f"the counter of nvml:{self._index} stands still", hint=hint)
        unit, covers, beyond = "board", COVERS, "CPU, system memory, power supply losses"
        if "GH200" in board or "GB200" in board:  # the counter is the superchip's there
            unit, covers = "module", "the whole superchip module: GPU, CPU and their memory"
            beyond = "power supply losses"
        domain = f"gpu {self._index} {unit} ({board})"
        return MeterInfo(self._counter.name, domain, "measured", "B", covers, beyond, tick.period_s, tick.step)


def findings() -> list[Finding]:
    """One line a board, or why there is none."""
    try:
        with _driver() as nvml:
            boards, why = int(nvml.nvmlDeviceGetCount()), "the driver sees no NVIDIA board: run nvidia-smi -L"
    except MeterError as error:
        boards, why = 0, str(error)
    return [_finding(i) for i in range(boards)] or [Finding("nvml", "gpu board", "B", COVERS, False, why)]


def count() -> int:
    """How many boards the driver shows; 0 where package or driver are missing."""
    try:
        with _driver() as nvml:
            return int(nvml.nvmlDeviceGetCount())
    except MeterError:
        return 0


def index_of(ordinal: int, visible: str | None, pci_order: bool) -> int:
    """NVML's index of the board that CUDA calls ``ordinal``. The machine's other boards are not part of the total.

    Args:
        visible: CUDA_VISIBLE_DEVICES, or None when it is not set.
        pci_order: CUDA_DEVICE_ORDER is PCI_BUS_ID, so that CUDA counts boards as NVML does.

    Raises:
        MeterError: it is not certain which board it is, or there is none.
    """
    with _driver() as nvml:
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        boards = [(str(nvml.nvmlDeviceGetUUID(h)), str(nvml.nvmlDeviceGetName(h))) for h in handles]
    entries = [str(i) for i in range(len(boards))]
    if visible is not None:
        entries = [entry.strip() for entry in visible.split(",") if entry.strip()]
    if ordinal >= len(entries):
        raise MeterError(f"there is no CUDA device {ordinal}", got=f"CUDA_VISIBLE_DEVICES={visible or ''}")
    entry = entries[ordinal]
    if not entry.isdigit():
        matching = [i for i, (uuid, _) in enumerate(boards) if uuid.startswith(entry)]
        if len(matching) == 1:
            return matching[0]
        hint = "a MIG slice has no counter of its own: nvidia-smi -L"
        raise MeterError(f"NVML sees no whole board {entry}", hint=hint)
    names = {name for _, name in boards}
    if len(names) > 1 and not pci_order:
        raise MeterError(
            "CUDA and NVML may count the boards of this machine differently",
            got=" and ".join(sorted(names)),
            hint="export CUDA_DEVICE_ORDER=PCI_BUS_ID",
        )
    return int(entry)


def cross_check(meter: NvmlMeter, seconds: float = 5.0) -> Finding:
    """Compare the counter with integrated power over ``seconds``: ``available`` when they agree within 10 %.

    Catches counters that run at another rate than the board draws power (zeus issue 181: 187 J against 327 J).

    Raises:
        MeterError: the board could not be read.
    """
    clock, power_j = meter._clock, 0.0
    first = meter.read()
    before_s, before_w = first.t_s, meter.watts()
    while clock.now() - first.t_s < seconds:
        clock.sleep(_POWER_PERIOD_S)
        now_s, now_w = clock.now(), meter.watts()
        power_j += (now_s - before_s) * (now_w + before_w) / 2
        before_s, before_w = now_s, now_w
    counter_j = meter.read().joules - first.joules
    why = f"in {seconds:.0f} s the counter rose by {counter_j:.1f} J, but integrated power is {power_j:.1f} J"
    return Finding.of(meter.info, None if abs(counter_j - power_j) <= AGREEMENT * power_j else why)


def _finding(index: int) -> Finding:
    try:
        with closing(NvmlMeter(index)) as meter:
            try:
                return replace(cross_check(meter, seconds=2.0), advice=meter.advice())
            except MeterError as error:
                return Finding.of(meter.info, str(error))
    except MeterError as error:
        return Finding(f"nvml:{index}", f"gpu {index} board", "B", COVERS, False, str(error))


@contextmanager
def _driver() -> Iterator[Any]:
    """The library, for a few questions; `MeterError` where a board does not answer."""
    nvml = _library()
    try:
        yield nvml
    except nvml.NVMLError as error:
        raise MeterError("a board does not answer", got=str(error), hint="run nvidia-smi") from error
    finally:
        nvml.nvmlShutdown()


def _library() -> Any:
    """The module, initialised once more; each caller shuts it down once."""
    try:
        import pynvml
    except ImportError:
        raise MeterError("the package nvidia-ml-py is not installed", hint="pip install nvidia-ml-py") from None
    if not hasattr(pynvml, "nvmlDeviceGetTotalEnergyConsumption"):
        hint = "pip uninstall pynvml; pip install nvidia-ml-py"
        raise MeterError("the package pynvml is not NVIDIA's own", hint=hint)
    nvml: Any = pynvml
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        hint = "install the driver, then run nvidia-smi"
        raise MeterError("no NVIDIA driver answers", got=str(error), hint=hint) from None
    return nvml
