"""From a recipe to an artifact on disk: steps, export, parity; built once."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from halfwatt.compress.apply import apply_recipe
from halfwatt.compress.base import StepContext
from halfwatt.compress.recipe import Recipe
from halfwatt.core.settings import Access
from halfwatt.dialogues.dialogue import Dialogue
from halfwatt.evaluate.examine import prove, prove_given
from halfwatt.formats.artifact import ARTIFACT, Artifact, read_artifact, write_artifact
from halfwatt.formats.gguf import Gguf
from halfwatt.formats.gguf_given import as_given
from halfwatt.models.chat_model import ChatModel
from halfwatt.runtimes.base import OperatingPoint
from halfwatt.runtimes.serving_process import ServingSpec


def build_given(model: ChatModel, proof: Sequence[Dialogue], folder: Path, device: str) -> Artifact:
    """The file that the original was read from, as an artifact; written once."""
    if (folder / ARTIFACT).exists():
        artifact = read_artifact(folder)
        if artifact.parity is not None:
            return artifact
    shutil.rmtree(folder, ignore_errors=True)
    artifact = prove_given(ServingSpec(as_given(model, folder), OperatingPoint(), Access(device)), proof)
    write_artifact(artifact, folder)
    return artifact


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
    proof: real dialogues for the parity check (gate G0); device: that will serve it, which may be another than the
    steps learn on. Raises ModelError: a step cannot be applied to this model; every reason is named.
    """
    context = context or StepContext()
    folder = cache / f"{recipe.slug}-{recipe.fingerprint(model.sha256, context.fingerprint)}"
    if (folder / ARTIFACT).exists():
        artifact = read_artifact(folder)
        if artifact.parity is not None:
            return artifact
    shutil.rmtree(folder, ignore_errors=True)  # an export whose parity was not finished is written anew
    product = apply_recipe(model, recipe, context)
    exported = Gguf().write(product, folder)
    artifact = prove(product, ServingSpec(exported, OperatingPoint(), Access(device)), proof)
    write_artifact(artifact, folder)
    return artifact
