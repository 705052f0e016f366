"""The steps of a recipe applied in order, each finished step kept on disk for recipes that begin alike."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from halfwatt.compress.base import Step, StepContext, require
from halfwatt.compress.recipe import Recipe
from halfwatt.compress.vocabulary_trim import Trim
from halfwatt.core.errors import BadInput
from halfwatt.models.chat_model import ChatModel, load
from halfwatt.models.lineage import ORIGIN


def find_step(folder: Path, before: ChatModel) -> ChatModel | None:
    """What was kept in ``folder``, on the device of ``before``, the model that its step was given; None = nothing."""
    if not (folder / ORIGIN).exists():
        return None
    made = load(folder, device=str(before.network.device))
    return replace(before, network=made.network, tokenizer=made.tokenizer, lineage=made.lineage, spent=made.spent)


def keep_step(model: ChatModel, folder: Path) -> None:
    """Write ``model`` to ``folder``: all of it or nothing.

    Raises:
        EnvironmentFault: the disk is too full.
    """
    try:
        model.save(folder)
    except (OSError, BadInput):
        if not (folder / ORIGIN).exists():  # else another process was faster, and made the same
            raise


def run(model: ChatModel, recipe: Recipe, context: StepContext) -> ChatModel:
    """Apply the steps in order. Steps that distil learn from ``model``, its vocabulary trimmed where theirs is.

    What a step made, and its checkpoints, lie under the name of all steps up to it: recipes that begin alike, or go on,
    do that work once.

    Raises:
        ModelError: a step does not fit the model.
    """
    original, made = model, model
    for number, step in enumerate(recipe.steps, start=1):
        until_here = Recipe("", recipe.steps[:number]).fingerprint(model.sha256, context.fingerprint)
        work = None if context.work is None else context.work / until_here  # the step adds its name
        here = replace(context, original=original, work=work, shared=context.work)
        shared = made is original
        made = _apply_once(step, made, here)
        if isinstance(step, Trim):
            original = made if shared else apply(step, original, here)
    return made


def _apply_once(step: Step, model: ChatModel, context: StepContext) -> ChatModel:
    """What a step makes, or what it made before. Its checkpoints have served once the whole model is kept."""
    if context.work is None:
        return apply(step, model, context)
    found = find_step(context.work / "made", model)
    if found is not None:
        return found
    made = apply(step, model, context)
    if not made.grid and made.draft is None:
        keep_step(made, context.work / "made")
        folder = context.bench(step.name, model.tokenizer.pad_id).folder
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
    return made


def apply(step: Step, model: ChatModel, context: StepContext | None = None) -> ChatModel:
    """Run one step.

    Raises:
        ModelError: the step does not fit the model; every reason is named.
    """
    require(step, model)
    return step.apply(model, context or StepContext())
