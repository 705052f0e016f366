"""One recipe tried, as it stands in result.json."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from halfwatt.core.estimate import Estimate
from halfwatt.evaluate.gate import both_hold
from halfwatt.evaluate.records import Measurement, Mixed, QualityInputs, QualityReport, Verdict, Window
from halfwatt.formats.artifact import Artifact
from halfwatt.runtimes.base import OperatingPoint


@dataclass(frozen=True, slots=True)
class Served:
    """An operating point that was tried, and what a reply took there, as a share of what it takes on one thread."""

    at: OperatingPoint
    share: float  # of CPU-seconds, or of joules where they are measured


@dataclass(frozen=True, slots=True)
class Trial:
    """One recipe tried. A failed one could not be made; a rejected one went no further than its reason says."""

    name: str  # "B1", "int8", "int4+int8 head", "int4"
    recipe: tuple[str, ...]
    status: Literal["done", "rejected", "failed"]
    reason: str | None
    artifact: Artifact | None
    at: OperatingPoint
    energy: Measurement | None
    quality: QualityReport | None
    cpu_s_ratio_vs_B1: Estimate | None = None
    energy_ratio_vs_B1: Estimate | None = None
    tried: tuple[Served, ...] = ()  # `at` was chosen among these
    mixed: Mixed | None = None  # of a cascade, whose energy and ratios are those of mixed traffic

    @property
    def verdict(self) -> Verdict | None:
        """The gate's, of a cascade on both kinds of dialogue; None = it was not judged."""
        if self.quality is None:
            return None
        return both_hold(self.quality, self.mixed)


@dataclass(frozen=True, slots=True)
class TrialReadings:
    """The raw readings behind one candidate on the tune split; None where it never got that far."""

    trial: str
    windows: tuple[Window, ...]
    quality_inputs: QualityInputs | None
    other: QualityInputs | None = None  # of a cascade, on the other kind of dialogue
