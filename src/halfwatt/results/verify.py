"""Recompute every figure of a ``result.json`` from the raw readings in it.

windows           -> measurements, ratios and the claim; modelled joules from CPU-seconds, wall time and bytes
quality inputs    -> every check of the gate and its verdict
what it took      -> the replies and days until that is repaid
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from halfwatt.core.errors import BadInput
from halfwatt.evaluate import energy_analysis
from halfwatt.evaluate.claim import make_claim
from halfwatt.evaluate.gate import judge
from halfwatt.evaluate.records import Mixed, QualityInputs, QualityReport, Window
from halfwatt.meters.base import MeterInfo
from halfwatt.results.payback import ledger
from halfwatt.results.result import Result, parse
from halfwatt.results.tables import champion, meter, readings

TOLERANCE = 1e-9  # relative: the same arithmetic on the same readings


@dataclass(frozen=True, slots=True)
class Difference:
    """One figure that does not follow from the readings."""

    where: str
    stored: str
    recomputed: str


@dataclass(frozen=True, slots=True)
class Verification:
    """How many figures were recomputed, and which differ."""

    result: str
    figures: int
    windows: int
    replies: int
    differences: tuple[Difference, ...]


def verify_file(path: Path) -> Verification:
    """Check a result file.

    Raises:
        BadInput: the file is missing, not a result, or does not hold the raw readings of its figures.
    """
    if not path.is_file():
        raise BadInput(f"no such file: {path}", hint="give the result.json that 'halfwatt optimize' wrote")
    result = parse(path.read_bytes())
    try:
        pairs = [pair for records in _records(result) for pair in _leaves(*records)]
    except (LookupError, ZeroDivisionError) as error:  # a reading that figures are derived from is missing
        hint = "it was changed since its run"
        raise BadInput(f"{path} is damaged", got=f"{type(error).__name__} {error}", hint=hint) from error
    differences = [Difference(where, str(a), str(b)) for where, a, b in pairs if not _same(a, b)]
    read = filter(None, (result.raw.quality_inputs, result.raw.other))
    replies = sum(len(inputs.replies_cand) for inputs in read)
    return Verification(str(path), len(pairs), len(result.raw.windows), replies, tuple(differences))


def _records(result: Result) -> Iterator[tuple[str, Any, Any]]:
    """(where, stored, recomputed) for every record or figure."""
    info, windows, inputs = meter(result), result.raw.windows, result.raw.quality_inputs
    yield from _modelled_readings("raw.windows", windows, info)
    for stored in result.final:
        yield f"final.{stored.arm}", stored, energy_analysis.measurement(stored.arm, windows, info)
    if inputs is None or result.final_quality is None:
        raise BadInput("the result holds no quality readings", hint="it was not written by a finished run")
    report = _judged(result, inputs, result.final_quality)
    yield "final_quality", result.final_quality, report
    for outside in result.outside:
        yield f"outside.{outside.kind}", outside.quality, _judged(result, outside.inputs, outside.quality)
    about, mixed = result.claim.about, _mixed_again(result)
    if mixed is not None:
        yield from _mixed_records(result, mixed)
    yield "claim", result.claim, make_claim(windows, info, report, about, mixed)
    b0, b1 = result.baselines.B0, result.baselines.B1
    if b0 is None:
        yield "baselines.B0", "absent", "measured" if any(window.arm == "B0" for window in windows) else "absent"
    for name, trial in (("B0", b0), ("B1", b1)):
        if trial is not None:
            yield f"baselines.{name}.energy", trial.energy, energy_analysis.measurement(name, windows, info)
    yield from _trial_records(result, info)
    if result.repaid is not None:
        rate = result.profile.replies_per_hour if result.profile else None
        yield "repaid", result.repaid, ledger(about, result.trials, result.final, result.took, rate)


def _trial_records(result: Result, info: MeterInfo | None) -> Iterator[tuple[str, Any, Any]]:
    """Of the candidates, on the tune split."""
    reads = readings(result)
    for trial in result.trials:
        read, where = reads[trial.name], f"trials.{trial.name}"
        yield from _modelled_readings(f"{where}.windows", read.windows, info)
        if trial.energy is None or trial.quality is None or read.quality_inputs is None:
            continue
        yield f"{where}.energy", trial.energy, energy_analysis.measurement(trial.name, read.windows, info)
        cpu_s = energy_analysis.ratio("B1", trial.name, read.windows, energy_analysis.cpu_s_per_reply)
        yield f"{where}.cpu_s_ratio_vs_B1", trial.cpu_s_ratio_vs_B1, cpu_s
        energy = energy_analysis.energy_ratio("B1", trial.name, read.windows, info)
        yield f"{where}.energy_ratio_vs_B1", trial.energy_ratio_vs_B1, energy
        yield f"{where}.quality", trial.quality, _judged(result, read.quality_inputs, trial.quality)
        if trial.mixed is not None:
            yield f"{where}.mixed", trial.mixed, _mixed(result, trial.mixed, read.other)


def _modelled_readings(
    where: str, windows: Sequence[Window], info: MeterInfo | None
) -> Iterator[tuple[str, float, float]]:
    """What files of 0.1.0 hold beside the windows' use: joules that the model is said to have given for it."""
    for index, window in enumerate(windows):
        if info is not None and info.cores is not None and info.name in window.readings:
            start, end = window.readings[info.name]
            modelled_j = energy_analysis.window_joules(window, info)
            yield f"{where}[{index}].readings.{info.name}", end.joules - start.joules, modelled_j


def _judged(result: Result, inputs: QualityInputs, like: QualityReport) -> QualityReport:
    margins, special, edition = result.margins, result.raw.special_tokens, result.schema
    fresh = judge(inputs, split=like.split, margins=margins, special=special, seed=like.seed, edition=edition)
    if any(check.room is not None for check in like.checks):
        return fresh
    return replace(fresh, checks=tuple(replace(c, room=None) for c in fresh.checks))  # older files do not hold it


def _mixed_again(result: Result) -> Mixed | None:
    """Of a result about a cascade."""
    if result.mixed is not None:
        return _mixed(result, result.mixed, result.raw.other)
    if champion(result).mixed is not None:
        raise BadInput("the result holds no verdict on the other kind of dialogue", hint="it was changed")
    return None


def _mixed_records(result: Result, mixed: Mixed) -> Iterator[tuple[str, Any, Any]]:
    yield "mixed", result.mixed, mixed
    tuned = champion(result).mixed
    for name in ("share", "nats_per_byte"):  # as it was chosen
        yield f"mixed.{name}", getattr(mixed, name), None if tuned is None else getattr(tuned, name)


def _mixed(result: Result, mixed: Mixed, inputs: QualityInputs | None) -> Mixed:
    if inputs is None:
        raise BadInput("the result holds no quality readings of the other kind of dialogue", hint="it was changed")
    return replace(mixed, quality=_judged(result, inputs, mixed.quality))


def _leaves(where: str, stored: Any, fresh: Any) -> Iterator[tuple[str, Any, Any]]:
    """Walk two records of one shape side by side."""
    if hasattr(stored, "__dataclass_fields__") and type(stored) is type(fresh):
        for name in stored.__dataclass_fields__:
            yield from _leaves(f"{where}.{name}", getattr(stored, name), getattr(fresh, name))
    elif isinstance(stored, tuple) and isinstance(fresh, tuple) and len(stored) == len(fresh):
        for index, (a, b) in enumerate(zip(stored, fresh, strict=True)):
            yield from _leaves(f"{where}[{index}]", a, b)
    else:
        yield where, stored, fresh


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=1e-12)
    return bool(a == b)
