"""``result.json`` and what the other verbs print: one record each, and the reader of the file."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from halfwatt.core.errors import BadInput
from halfwatt.core.estimate import Estimate
from halfwatt.core.json_records import from_json
from halfwatt.core.settings import Margins
from halfwatt.dialogues.dialogue import Dialogue
from halfwatt.evaluate.records import (
    Claim,
    Measurement,
    Mixed,
    Outside,
    Profile,
    QualityInputs,
    QualityReport,
    Window,
)
from halfwatt.formats.artifact import Artifact
from halfwatt.meters.base import Finding, MeterInfo
from halfwatt.meters.cost import Cost
from halfwatt.meters.modelled import INFO
from halfwatt.results.payback import Ledger
from halfwatt.results.provenance import Provenance
from halfwatt.runtimes.base import OperatingPoint
from halfwatt.search.student_plan import TeachingPlan
from halfwatt.search.trial import Trial, TrialReadings

SCHEMA = 5  # its gate's rules are of the same edition


@dataclass(frozen=True, slots=True)
class Baselines:
    """The original twice, with the energy of the final run."""

    B0: Trial | None  # as commonly run: transformers, its stored dtype, default threads; None: it can only be run
    B1: Trial  # in the best runtime at bf16/f16 and its best operating point


@dataclass(frozen=True, slots=True)
class Raw:
    """What was read. Every other figure of a result follows from it."""

    windows: tuple[Window, ...]  # of the final run, the discarded ones with their reasons
    quality_inputs: QualityInputs | None  # of the candidate that the claim is about, on the test split
    special_tokens: tuple[str, ...] = ()  # what the gate counts as leaked template tokens
    trials: tuple[TrialReadings, ...] = ()  # of the candidates on the tune split
    other: QualityInputs | None = None  # of a cascade, on the other kind of dialogue, sealed


@dataclass(frozen=True, slots=True)
class Example:
    """One prompt and how both models answered it."""

    dialogue: Dialogue  # ends with the user's message
    original: str
    optimized: str


@dataclass(frozen=True, slots=True)
class Result:
    """What ``optimize`` comes to: the whole of result.json."""

    schema: int
    provenance: Provenance
    meters: tuple[MeterInfo, ...]  # every meter that was read
    unavailable: tuple[Finding, ...]  # every meter that was not, and why
    baselines: Baselines
    trials: tuple[Trial, ...]  # the candidates, measured and judged on the tune split
    winner: str  # name of the delivered trial, may be "B1"
    winner_path: str  # its folder, relative to result.json
    final: tuple[Measurement, ...]  # arms "B0", "B1", "winner" of the one interleaved run
    final_quality: QualityReport | None  # of `Claim.about` on the sealed test split
    claim: Claim
    margins: Margins
    raw: Raw
    events: tuple[str, ...] = ()
    examples: tuple[Example, ...] = ()
    outside: tuple[Outside, ...] = ()  # of `Claim.about`, on other kinds of dialogue than it was made for
    profile: Profile | None = None  # of the test split
    took: Cost | None = None  # building, measuring and judging all of it; trainings stand in their artifacts
    plan: TeachingPlan | None = None  # what the search expected to teach; None = nobody
    mixed: Mixed | None = None  # of a cascade, sealed: the final run's windows are of mixed traffic
    repaid: Ledger | None = None  # None: the claim is about B1, or the run did not write down what it took


@dataclass(frozen=True, slots=True)
class Measured:
    """What ``measure`` comes to."""

    provenance: Provenance
    meters: tuple[MeterInfo, ...]
    artifact: Artifact
    at: OperatingPoint
    measurement: Measurement
    windows: tuple[Window, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What ``compare`` comes to: A is the reference, B the candidate; ratios are A over B."""

    provenance: Provenance
    meters: tuple[MeterInfo, ...]
    artifacts: tuple[Artifact, Artifact]
    measurements: tuple[Measurement, ...]
    cpu_s_ratio: Estimate
    energy_ratio: Estimate | None
    quality: QualityReport
    inputs: QualityInputs
    windows: tuple[Window, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TransformedModel:
    """A model folder that ``trim``, ``prune`` or ``distil`` wrote."""

    path: Path
    parameters: tuple[int, int]  # before and after; tied ones count once
    lineage: tuple[str, ...]
    spent: tuple[Cost, ...]  # by each training in its lineage


def parse(text: str | bytes) -> Result:
    """Read a ``result.json``. In files of 0.1.0 a modelled meter does not say for how many cores: the machine does.

    Raises:
        BadInput: it is not one, or one of another schema version.
    """
    try:
        schema = json.loads(text).get("schema")
    except (ValueError, AttributeError):
        raise BadInput("this is not a result.json", hint="give the file that 'halfwatt optimize' wrote") from None
    if schema not in range(1, SCHEMA + 1):
        raise BadInput(
            f"this halfwatt reads results of schema 1 to {SCHEMA}",
            got=str(schema),
            hint="use the version that wrote it",
        )
    try:
        result = from_json(text, Result)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise BadInput(f"result.json is damaged at {where}", got=str(first["msg"])) from None
    return replace(result, meters=tuple(_with_cores(info, result.provenance) for info in result.meters))


def _with_cores(info: MeterInfo, provenance: Provenance) -> MeterInfo:
    if info.name != INFO.name or info.cores is not None:
        return info
    cores = provenance.machine.get("cores", "")
    if not cores.isdigit():
        raise BadInput("result.json is damaged at provenance.machine.cores", got=cores or "nothing")
    return replace(info, cores=int(cores))
