"""Sensors that the kernel shows under hwmon and power_supply. None is ever added to another: rails contain each other.

hwmon*/energy*_input              a counter in microjoules (Intel graphics cards, AMD sockets)     grade B
hwmon*/power*_average, _input     microwatts of a rail (amdgpu, INA226), integrated                grade C
hwmon*/in*_input x curr*_input    millivolts x milliamperes of a rail (INA3221), integrated        grade C
power_meter (ACPI, BMC)           microwatts of the whole system, integrated                       grade A
power_supply BAT*                 what batteries give to the whole system, integrated              grade A
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from halfwatt.core.errors import MeterError
from halfwatt.core.machine import text_of
from halfwatt.meters.base import EnergyMeter, Finding, MeterInfo
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
    chips = sorted((root / "hwmon").glob("hwmon*"), key=lambda folder: (len(folder.name), folder.name))
    own = [c for c in chips if not (c / "device" / "type").exists()]  # else a battery or charger shown a second time
    every = [*_batteries(root, read_text), *(sensor for chip in own for sensor in _chip(chip, read_text))]
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


def _batteries(root: Path, read_text: ReadText) -> list[Sensor]:
    """One sensor for all batteries together: the system draws from one or the other. Not that of a mouse or headset."""
    batteries = [f for f in sorted((root / "power_supply").glob("*")) if text_of(f / "type", read_text) == "Battery"]
    folders = [f for f in batteries if text_of(f / "scope", read_text) != "Device"]
    if not folders:
        return []
    covers = f"everything that {' and '.join(f.name for f in folders)} feeds, the screen included"
    losses = "losses of the charger and inside the battery"
    info = MeterInfo("battery", WHOLE, "measured", "A", covers, losses, period_s=0.0, step_j=0.0)
    return [Sensor(info, True, partial(_discharge_w, folders, read_text))]


def _discharge_w(folders: Sequence[Path], read_text: ReadText) -> float:
    states = {folder: text_of(folder / "status", read_text) for folder in folders}
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


def _chip(folder: Path, read_text: ReadText) -> Iterator[Sensor]:
    for path in sorted(folder.glob("energy*_input")):
        if not _rail(path, read_text).startswith("Ecore"):  # inside the socket's counter, and there are dozens
            yield _sensor([path], read_text, power=False)
    powers = {p.name.split("_")[0]: p for p in sorted(folder.glob("power*_input"))}
    powers |= {p.name.split("_")[0]: p for p in sorted(folder.glob("power*_average"))}  # better to integrate
    rails = [[path] for path in powers.values()]
    if not powers:
        currents = sorted(folder.glob("curr*_input"))
        rails = [[c.with_name(c.name.replace("curr", "in")), c] for c in currents]  # voltage and current
    yield from (_sensor(rail, read_text, power=True) for rail in rails if rail[0].exists())


def _sensor(paths: Sequence[Path], read_text: ReadText, *, power: bool) -> Sensor:
    """The product of what ``paths`` show; the first one has the label."""
    folder, rail = paths[0].parent, _rail(paths[0], read_text)
    chip = text_of(folder / "name", read_text) or folder.name
    whole = chip == "power_meter"  # the ACPI power meter, which the BMC fills
    board = rail == "VDD_IN"  # Jetson: what enters the module
    what = "the whole system" if whole else "the whole Jetson module" if board else f"{rail} of {chip}"
    info = MeterInfo(
        name=f"{folder.name}:{chip}:{rail}",
        domain=WHOLE if whole or board else f"{chip} {rail}",
        kind="measured",
        grade="A" if whole else "C" if power else "B",
        covers=f"{what}, as its maker wired the sensor",
        not_covered="losses of the power supply" if whole or board else "everything else in the machine",
        period_s=0.0,
        step_j=0.0,
    )
    return Sensor(info, power, lambda: math.prod(_number(path, read_text) for path in paths) / 1e6)


def _rail(path: Path, read_text: ReadText) -> str:
    channel = path.name.rsplit("_", 1)[0]
    return text_of(path.with_name(f"{channel}_label"), read_text) or channel


def _number(path: Path, read_text: ReadText) -> float:
    try:
        return float(int(read_text(path)))
    except PermissionError:
        raise MeterError(f"{path} may not be read", hint=f"type: sudo chmod a+r {path}") from None
    except (OSError, ValueError) as error:
        raise MeterError(f"{path} cannot be read", got=str(error), hint="run 'halfwatt doctor'") from error
