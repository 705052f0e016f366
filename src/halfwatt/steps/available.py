"""Every step there is, by the name that a recipe and the command line use."""

from __future__ import annotations

from halfwatt.steps.adopt import Adopt
from halfwatt.steps.allocate import Mixed
from halfwatt.steps.base import Step
from halfwatt.steps.distil import Distil
from halfwatt.steps.draft import Draft
from halfwatt.steps.prune import Prune, Sparsify
from halfwatt.steps.qat import TrainOnGrid
from halfwatt.steps.quantize import Quantize
from halfwatt.steps.student import Student
from halfwatt.steps.vocabulary import Trim

STEPS: dict[str, type[Step]] = {
    "trim": Trim,
    "prune": Prune,
    "student": Student,
    "adopt": Adopt,
    "sparsify": Sparsify,
    "distil": Distil,
    "quantize": Quantize,
    "mixed": Mixed,
    "train-on-grid": TrainOnGrid,
    "draft": Draft,
}


def learns(step: Step) -> bool:
    """Does it train weights? Such a step is metered, and its model's ``spent`` tells what that took."""
    return isinstance(step, Distil | TrainOnGrid)
