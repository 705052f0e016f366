"""Every step there is, by the name that a recipe and the command line use."""

from __future__ import annotations

from halfwatt.compress.base import Step
from halfwatt.compress.distil import Distil
from halfwatt.compress.fresh_student import Student
from halfwatt.compress.ngram_draft import Draft
from halfwatt.compress.pretrained import Adopt
from halfwatt.compress.prune import Prune, Sparsify
from halfwatt.compress.quantize.mixed_precision import Mixed
from halfwatt.compress.quantize.qat import TrainOnGrid
from halfwatt.compress.quantize.quantize import Quantize
from halfwatt.compress.vocabulary_trim import Trim

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
