"""The steps of a recipe applied in order, each finished step kept on disk for recipes that begin alike.

cache/<fingerprint of all steps up to it>/model         what the step made
                                         /checkpoints   of its training, until the model is there
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from halfwatt.compress.base import Step, StepContext, require
from halfwatt.compress.recipe import Recipe
from halfwatt.compress.vocabulary_trim import Trim
from halfwatt.core.errors import BadInput
from halfwatt.models.chat_model import ChatModel, load
from halfwatt.models.lineage import ORIGIN


def apply_step(step: Step, model: ChatModel, context: StepContext | None = None) -> ChatModel:
    """Apply one step.

    Raises:
        ModelError: it does not fit the model; every reason is named.
    """
    require(step, model)
    return step.apply(model, context or StepContext())


def apply_recipe(model: ChatModel, recipe: Recipe, context: StepContext) -> ChatModel:
    """Apply the steps in order. Steps that distil learn from ``model``, its vocabulary trimmed where theirs is.

    Raises:
        ModelError: a step does not fit the model.
    """
    original, current = model, model
    for number, step in enumerate(recipe.steps, start=1):
        fingerprint = Recipe("", recipe.steps[:number]).fingerprint(model.sha256, context.fingerprint)
        folder = None if context.cache is None else context.cache / fingerprint
        before, own = current, replace(context, original=original)
        current = apply_step(step, before, own) if folder is None else StepCache(folder).apply(step, before, own)
        if isinstance(step, Trim):
            original = current if before is original else apply_step(step, original, own)
    return current


@dataclass(frozen=True, slots=True)
class StepCache:
    """One finished step on disk, in a folder named after all steps up to it."""

    folder: Path

    def apply(self, step: Step, model: ChatModel, context: StepContext) -> ChatModel:
        """What the step made before, or makes now; once the whole model is kept, checkpoints have served."""
        if (kept := self.read(model)) is not None:
            return kept
        checkpoints = self.folder / "checkpoints"
        result = apply_step(step, model, replace(context, checkpoints=checkpoints))
        if not result.grid and result.draft is None and not result.run_only:  # a model folder holds none of these
            self.write(result)
            shutil.rmtree(checkpoints, ignore_errors=True)
        return result

    def read(self, before: ChatModel) -> ChatModel | None:
        """What is kept, on the device of ``before``, the model that the step was given; None = nothing."""
        if not (self._model / ORIGIN).exists():
            return None
        kept = load(self._model, device="cpu" if before.run_only else str(before.network.device))
        return replace(
            before,
            network=kept.network,
            tokenizer=kept.tokenizer,
            lineage=kept.lineage,
            spent=kept.spent,
            run_only="",
        )

    def write(self, model: ChatModel) -> None:
        """Keep all of ``model`` or nothing.

        Raises:
            EnvironmentFault: the disk is too full.
        """
        try:
            model.save(self._model)
        except (OSError, BadInput):
            if not (self._model / ORIGIN).exists():  # else another process was faster, and kept the same
                raise

    @property
    def _model(self) -> Path:
        return self.folder / "model"
