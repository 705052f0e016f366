"""A step that learns, as a process of its own, with a checkpoint after every update: to be killed.

python -m tests.learner MODEL distil|qat WORK
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from halfwatt.compress.base import Step, StepContext
from halfwatt.compress.distil import Distil
from halfwatt.compress.quantize.qat import TrainOnGrid
from halfwatt.models.chat_model import ChatModel, load
from tests.support import taught_students as taught

STEPS: dict[str, Step] = {
    "distil": Distil(epochs=5, batch_tokens=1024, temperature=1.0, cached=16),
    "qat": TrainOnGrid(4, epochs=5, batch_tokens=1024),
}


def learn(folder: Path, step: str, work: Path) -> ChatModel:
    """The step on the model that is its own teacher."""
    torch.set_num_threads(1)  # the same sums in both processes
    model = load(folder)
    told = tuple(taught.dialogues())
    return STEPS[step].apply(model, StepContext(told, original=model, checkpoints=work, checkpoint_s=0.0))


if __name__ == "__main__":
    learn(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
