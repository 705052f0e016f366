"""From a recipe to an artifact on disk: steps, export, parity; built once."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from halfwatt.compress.apply import apply_recipe
from halfwatt.compress.base import StepContext
from halfwatt.compress.recipe import Recipe
from halfwatt.core.files import write_atomic
from halfwatt.core.json_records import from_json, to_json
from halfwatt.dialogues.dialogue import Dialogue
from halfwatt.evaluate.examine import prove
from halfwatt.formats.artifact import ARTIFACT, Artifact
from halfwatt.models.chat_model import ChatModel
from halfwatt.runtimes.base import OperatingPoint
from halfwatt.runtimes.llamacpp import LlamaCpp
from halfwatt.runtimes.serving_process import ServingSpec


def build_artifact(
    model: ChatModel,
    recipe: Recipe,
    proof: Sequence[Dialogue],
    cache: Path,
    context: StepContext | None = None,
    device: str = "cpu",
) -> Artifact:
    """Apply the steps, export for llama.cpp, and prove the export in its own runtime.

    The artifact's folder in ``cache`` is named by the fingerprint of all that it depends on, so it is built once.

    Args:
        proof: real dialogues for the parity check (gate G0).
        context: what the steps may use, such as dialogues to train on.
        device: that will serve it, which may be another than the steps learn on.

    Raises:
        ModelError: a step cannot be applied to this model; every reason is named.
    """
    context = context or StepContext()
    folder = cache / f"{recipe.slug}-{recipe.fingerprint(model.sha256, context.fingerprint)}"
    record = folder / ARTIFACT
    if record.exists():
        artifact = from_json(record.read_bytes(), Artifact)
        if artifact.parity is not None:
            return artifact
    shutil.rmtree(folder, ignore_errors=True)  # an export whose parity was not finished is written anew
    product = apply_recipe(model, recipe, context)
    exported = LlamaCpp(device=device).export(product, folder)
    artifact = prove(product, ServingSpec(exported, OperatingPoint(), device), proof)
    write_atomic(record, to_json(artifact).encode())
    return artifact
