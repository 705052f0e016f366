"""A recipe: the steps that make a candidate from the original. The operating point is chosen by measuring."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from halfwatt.steps.base import Step
from halfwatt.steps.quantize import Quantize


@dataclass(frozen=True, slots=True)
class Recipe:
    """Steps in the order in which they are applied; none = the original."""

    name: str
    steps: tuple[Step, ...] = ()

    def fingerprint(self, model_sha256: str) -> str:
        """12 hex digits that change with the model, the steps, any of their fields, or the version that runs them."""
        from halfwatt import __version__

        text = "\n".join([__version__, model_sha256, *map(repr, self.steps)])
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def slug(self) -> str:
        """The name as a folder name."""
        return re.sub(r"[^A-Za-z0-9]+", "-", self.name).strip("-").lower()


def ladder() -> tuple[Recipe, ...]:
    """What `optimize` climbs after the original: fewer bits at each rung."""
    return (
        Recipe("int8", (Quantize(bits=8),)),
        Recipe("int4 + int8 head", (Quantize(bits=4, head_bits=8),)),
        Recipe("int4", (Quantize(bits=4),)),
    )
