"""Sensors that the kernel shows under hwmon and power_supply. None is ever added to another: rails contain each other.

hwmon*/energy*_input              a counter in microjoules (Intel graphics cards, AMD sockets)     grade B
hwmon*/power*_average, _input     microwatts of a rail (amdgpu, INA226), integrated                grade C
hwmon*/in*_input x curr*_input    millivolts x milliamperes of a rail (INA3221), integrated        grade C
power_meter (ACPI, BMC)           microwatts of the whole system, integrated                       grade A
power_supply BAT*                 what batteries give to the whole system, integrated              grade A
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from halfwatt.core.errors import MeterError
from halfwatt.meters.base import EnergyMeter, Finding, Grade, MeterInfo
from halfwatt.meters.counter import Counter, CounterMeter
from halfwatt.meters.power import MAX_W, SAMPLE_S, PowerMeter
from halfwatt.meters.ticks import REAL, Clock, tick_of

ROOT = Path("/sys/class")
WHOLE = "whole system"
_WATCH_S = 2.0  # how long a power sensor is watched to see how often it changes

ReadText = Callable[[Path], str]


@dataclass(frozen=True, slots=True)
class Sensor:
    """One source. ``look`` gives joules of a counter, or watts when ``power``; it raises `MeterError`."""

    info: MeterInfo  # how often it changes is seen when it is opened
    power: bool
    look: Callable[[], float]


def sensors(root: Path = ROOT, read_text: ReadText = Path.read_text) -> list[Sensor]:
    """What there is under ``root`` (that is, under /sys/class), those of the whole system first."""
    every = [*_batteries(root, read_text), *_chips(root, read_text)]
    return sorted(every, key=lambda sensor: sensor.info.domain != WHOLE)


def open_sensor(sensor: Sensor, clock: Clock = REAL) -> EnergyMeter:
    """Open one.

    Raises:
        MeterError: it cannot be read, or is a counter that stands still.
    """
    if not sensor.power:
        tick = tick_of(sensor.look, poll_s=0.001, clock=clock)
        if tick is None:
            raise MeterError(f"the counter {sensor.info.name} stands still", got=f"{sensor.look():.3f} J")
        info = replace(sensor.info, period_s=tick.period_s, step_j=tick.step)
        return CounterMeter(info, [(Counter(info.name, MAX_W), sensor.look)], clock)
    tick = tick_of(sensor.look, poll_s=0.01, limit_s=_WATCH_S, clock=clock)  # a steady load may show no change
    period_s = max(SAMPLE_S, tick.period_s if tick else _WATCH_S)
    return PowerMeter(replace(sensor.info, period_s=period_s), sensor.look, clock)


def findings(root: Path = ROOT, read_text: ReadText = Path.read_text) -> list[Finding]:
    """What `halfwatt doctor` says about batteries and board sensors here."""
    lines = [_finding(sensor) for sensor in sensors(root, read_text)]
    names = {line.name for line in lines}
    if "battery" not in names:
        why = f"no battery under {root / 'power_supply'}: a wall meter is the other way to see the whole system"
        lines.append(Finding("battery", WHOLE, "A", "everything that the battery feeds", False, why))
    if names <= {"battery"}:
        why = f"no energy or power sensor under {root / 'hwmon'}: no driver found one; type: sudo sensors-detect"
        lines.append(Finding("hwmon", "board rails", "C", "what the board's own sensors measure", False, why))
    return lines


def _finding(sensor: Sensor) -> Finding:
    try:
        sensor.look()
    except MeterError as error:
        return Finding.of(sensor.info, str(error))
    return Finding.of(sensor.info)


def _info(name: str, domain: str, grade: Grade, covers: str, not_covered: str) -> MeterInfo:
    return MeterInfo(name, domain, "measured", grade, covers, not_covered, period_s=0.0, step_j=0.0)


# --- batteries -----------------------------------------------------------------------------------------------------


def _batteries(root: Path, read_text: ReadText) -> list[Sensor]:
    """One sensor for all batteries together: the system draws from one or the other. Not that of a mouse or headset."""
    supplies = sorted((root / "power_supply").glob("*"))
    batteries = [f for f in supplies if _text(f / "type", read_text) == "Battery"]
    folders = [f for f in batteries if _text(f / "scope", read_text) != "Device"]
    if not folders:
        return []
    covers = f"everything that {' and '.join(f.name for f in folders)} feeds, the screen included"
    info = _info("battery", WHOLE, "A", covers, "losses of the charger and inside the battery")
    return [Sensor(info, True, lambda: _discharge_w(folders, read_text))]


def _discharge_w(folders: Sequence[Path], read_text: ReadText) -> float:
    states = {folder: _text(folder / "status", read_text) for folder in folders}
    feeding = [folder for folder, state in states.items() if state == "Discharging"]
    if not feeding:
        shown = ", ".join(f"{folder.name} {state or 'silent'}" for folder, state in states.items())
        raise MeterError("no battery feeds the machine", got=shown, hint="unplug the charger")
    watts = sum(_battery_w(folder, read_text) for folder in feeding)
    if watts == 0:
        raise MeterError("the battery feeds the machine but shows 0 W", hint="wait for its gauge, then try again")
    return watts


def _battery_w(folder: Path, read_text: ReadText) -> float:
    """Some gauges give power, some current and voltage; some count what leaves the battery as negative."""
    if (folder / "power_now").exists():
        return abs(_number(folder / "power_now", read_text)) / 1e6
    current, voltage = (_number(folder / f"{what}_now", read_text) / 1e6 for what in ("current", "voltage"))
    return abs(current * voltage)


# --- hwmon ---------------------------------------------------------------------------------------------------------


def _chips(root: Path, read_text: ReadText) -> Iterator[Sensor]:
    for folder in sorted((root / "hwmon").glob("hwmon*"), key=lambda f: (len(f.name), f.name)):
        if not (folder / "device" / "type").exists():  # a battery or charger shown a second time
            yield from _chip(folder, _text(folder / "name", read_text) or folder.name, read_text)


def _chip(folder: Path, chip: str, read_text: ReadText) -> Iterator[Sensor]:
    for path in sorted(folder.glob("energy*_input")):
        rail = _rail(path, read_text)
        if not rail.startswith("Ecore"):  # inside the socket's counter, and there are dozens
            yield _sensor(folder, chip, rail, power=False, look=_scaled(path, 1e6, read_text))
    powers = {p.name.split("_")[0]: p for p in sorted(folder.glob("power*_input"))}
    powers |= {p.name.split("_")[0]: p for p in sorted(folder.glob("power*_average"))}  # better to integrate
    for path in powers.values():
        yield _sensor(folder, chip, _rail(path, read_text), power=True, look=_scaled(path, 1e6, read_text))
    if powers:
        return
    for current in sorted(folder.glob("curr*_input")):
        voltage = folder / current.name.replace("curr", "in")
        if voltage.exists():
            rail = _rail(voltage, read_text)
            yield _sensor(folder, chip, rail, power=True, look=_product(voltage, current, read_text))


def _sensor(folder: Path, chip: str, rail: str, *, power: bool, look: Callable[[], float]) -> Sensor:
    whole = chip == "power_meter"  # the ACPI power meter, which the BMC fills
    board = rail == "VDD_IN"  # Jetson: what enters the module
    what = "the whole system" if whole else "the whole Jetson module" if board else f"{rail} of {chip}"
    info = _info(
        f"{folder.name}:{chip}:{rail}",
        WHOLE if whole or board else f"{chip} {rail}",
        "A" if whole else "C" if power else "B",
        f"{what}, as its maker wired the sensor",
        "losses of the power supply" if whole or board else "everything else in the machine",
    )
    return Sensor(info, power, look)


def _rail(path: Path, read_text: ReadText) -> str:
    channel = path.name.rsplit("_", 1)[0]
    return _text(path.with_name(f"{channel}_label"), read_text) or channel


def _scaled(path: Path, unit: float, read_text: ReadText) -> Callable[[], float]:
    return lambda: _number(path, read_text) / unit


def _product(voltage: Path, current: Path, read_text: ReadText) -> Callable[[], float]:
    return lambda: _number(voltage, read_text) * _number(current, read_text) / 1e6


def _number(path: Path, read_text: ReadText) -> float:
    try:
        return float(int(read_text(path)))
    except PermissionError:
        raise MeterError(f"{path} may not be read", hint=f"type: sudo chmod a+r {path}") from None
    except (OSError, ValueError) as error:
        raise MeterError(f"{path} cannot be read", got=str(error), hint="run 'halfwatt doctor'") from error


def _text(path: Path, read_text: ReadText) -> str:
    """A word; "" where the file is missing."""
    try:
        return read_text(path).strip()
    except OSError:
        return ""
