"""A quantized model that can still learn: what `halfwatt.quantize` gives back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from halfwatt.api.inputs import dialogue_set
from halfwatt.compress.apply import apply_step
from halfwatt.compress.base import StepContext
from halfwatt.compress.quantize.qat import RATE, TrainOnGrid
from halfwatt.compress.quantize.quantize import Quantize
from halfwatt.core.settings import RunSettings
from halfwatt.dialogues.dialogue import Dialogue, DialogueSet
from halfwatt.meters.cost import Cost
from halfwatt.models.chat_model import ChatModel


class Quantized:
    """The model on the grid, and the original that it learns from.

    >>> small = Quantized(model, Quantize(8)); small.fit(dialogues, epochs=10); small.save("small")     # doctest: +SKIP

    model:  the `ChatModel` as it stands: rounded, or trained on the grid after `fit`
    """

    def __init__(self, original: ChatModel, step: Quantize) -> None:
        """Round ``original``, which stays as it is.

        Raises:
            ModelError: it cannot be quantized; every reason is named.
        """
        self._original, self._step = original, step
        self.model = apply_step(step, original)

    def fit(
        self,
        dialogues: str | Path | DialogueSet | Sequence[Dialogue],
        *,
        epochs: float = 1.0,
        lr: float = RATE,
        context: StepContext | None = None,
    ) -> Cost:
        """Quantization-aware training, distilling from the original. Each call begins at the original's weights.

        Args:
            dialogues: a file, "demo", a set, or dialogues; never those that will judge the result.
            context: where to work, and what else a step may use; its dialogues are replaced.

        Raises:
            BadInput: nothing to learn from. TrainingDiverged: a loss or gradient is not finite.
        """
        if isinstance(dialogues, str | Path):
            dialogues = dialogue_set("", dialogues, "train", RunSettings())
        lessons = tuple(dialogues.dialogues if isinstance(dialogues, DialogueSet) else dialogues)
        step = TrainOnGrid(self._step.bits, self._step.head_bits, self._step.embedding_bits, epochs=epochs, lr=lr)
        self.model = apply_step(step, self._original, replace(context or StepContext(), dialogues=lessons))
        return self.model.spent[-1]

    def save(self, folder: str | Path) -> None:
        """Write a Hugging Face folder whose weights lie on the grid.

        Raises:
            BadInput: ``folder`` holds something already.
        """
        self.model.save(folder)
