"""Numbers with their uncertainty, and the statistics that make them. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its 95 % interval. ``n`` counts independent repeats (windows, dialogues), never tokens."""

    mean: float
    lo: float
    hi: float
    unit: str
    n: int
