"""From a recipe to an artifact on disk, built once."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from halfwatt.compress.apply import run
from halfwatt.compress.base import StepContext
from halfwatt.compress.recipe import Recipe
from halfwatt.core.files import write_atomic
from halfwatt.core.json_records import from_json, to_json
from halfwatt.core.types import Progress
from halfwatt.dialogues.dialogue import Dialogue
from halfwatt.evaluate.examine import prove
from halfwatt.evaluate.records import ScoredReply
from halfwatt.evaluate.replies import generate_replies
from halfwatt.evaluate.requests import Workload
from halfwatt.formats.artifact import Artifact
from halfwatt.models.chat_model import ChatModel
from halfwatt.runtimes.base import OperatingPoint
from halfwatt.runtimes.llamacpp import LlamaCpp
from halfwatt.runtimes.serving_process import ServingSpec
from halfwatt.search.stages import StageStore


def build(
    model: ChatModel,
    recipe: Recipe,
    dialogues: Sequence[Dialogue],
    cache: Path,
    device: str,
    context: StepContext | None = None,
) -> Artifact:
    """Apply the steps, export, and prove the export in its own runtime. Made once per fingerprint.

    Args:
        dialogues: real dialogues for the parity check (gate G0); the first 64 are used.
        context: what the steps may use, such as dialogues to train on.

    Raises:
        ModelError: a step cannot be applied to this model; every reason is named.
    """
    context = context or StepContext()
    folder = cache / f"{recipe.slug}-{recipe.fingerprint(model.sha256, context.fingerprint)}"
    record = folder / "artifact.json"
    if record.exists():
        found = from_json(record.read_bytes(), Artifact)
        if found.parity is not None:
            return found
    shutil.rmtree(folder, ignore_errors=True)  # an export whose parity was not finished is made anew
    made = run(model, recipe, context)
    exported = LlamaCpp(device=device).export(made, folder)
    artifact = prove(made, ServingSpec(exported, OperatingPoint(), device), dialogues)
    write_atomic(record, to_json(artifact).encode())
    return artifact


def reference_replies(
    spec: ServingSpec, found: Workload, journal: StageStore, split: str, progress: Progress
) -> tuple[ScoredReply, ...]:
    """The reference's replies to one split, made once per run."""
    return journal.once(
        f"reference-{split}",
        tuple[ScoredReply, ...],
        lambda: generate_replies(spec, found.prompts(), progress, f"original's replies, {split} split"),
    )
