"""From a recipe to an artifact on disk: steps, export, parity; built once."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from halfwatt.compress.apply import apply_recipe
from halfwatt.compress.base import StepContext
from halfwatt.compress.recipe import Recipe
from halfwatt.compress.training.teacher_cache import RuntimeTeacher
from halfwatt.core.settings import Access
from halfwatt.dialogues.dialogue import Dialogue
from halfwatt.evaluate.examine import prove, prove_given
from halfwatt.evaluate.f16_range import inputs_beyond_f16
from halfwatt.formats.artifact import ARTIFACT, Artifact, read_artifact, write_artifact
from halfwatt.formats.gguf import Gguf
from halfwatt.formats.gguf_given import as_given
from halfwatt.models.chat_model import ChatModel
from halfwatt.models.tokenizer import ChatTokenizer
from halfwatt.models.vocabulary_map import VocabularyMap
from halfwatt.runtimes.base import OperatingPoint
from halfwatt.runtimes.llamacpp import LlamaCpp
from halfwatt.runtimes.serving_process import ServingSpec

if TYPE_CHECKING:
    from halfwatt.compress.base import Asking

AS_GIVEN = "as_given"


def asking(model: ChatModel, device: str) -> Asking | None:
    """How steps ask an original that can only be run; None = they need not, its network is theirs."""
    if not model.run_only:
        return None

    @contextmanager
    def ask(student: ChatTokenizer) -> Iterator[RuntimeTeacher]:
        with TemporaryDirectory(prefix="halfwatt-") as folder:
            artifact = as_given(model, Path(folder) / AS_GIVEN)
            vocabulary = VocabularyMap.between(model.tokenizer, student)
            kept = range(model.tokenizer.vocab_size) if vocabulary is None else vocabulary.kept.tolist()
            with LlamaCpp(device).open(artifact, OperatingPoint()) as session:
                yield RuntimeTeacher(session.logits_after, kept, artifact.sha256, artifact.weights_read_b)

    return ask


def build_given(model: ChatModel, proof: Sequence[Dialogue], folder: Path, device: str) -> Artifact:
    """The file that the original was read from, as an artifact; written once."""
    return _once(
        folder, lambda: prove_given(ServingSpec(as_given(model, folder), OperatingPoint(), Access(device)), proof)
    )


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
    context = replace(context, asking=context.asking or asking(model, device))
    folder = cache / f"{recipe.slug}-{recipe.fingerprint(model.sha256, context.fingerprint)}"

    return _once(folder, lambda: export(apply_recipe(model, recipe, context), proof, folder, device))


def export(product: ChatModel, proof: Sequence[Dialogue], folder: Path, device: str = "cpu") -> Artifact:
    """Write it for llama.cpp, and prove that in its own runtime."""
    exported = Gguf().write(product, folder)
    return prove_export(product, ServingSpec(exported, OperatingPoint(), Access(device)), proof)


def prove_export(product: ChatModel, spec: ServingSpec, proof: Sequence[Dialogue]) -> Artifact:
    """With its parity record; where it computes what no number is, it is written anew without f16 where that is why."""
    artifact = prove(product, spec, proof)
    finite = artifact.parity is None or artifact.parity.finite
    if not (wide := frozenset[str]() if finite else inputs_beyond_f16(product, proof)):
        return artifact
    shutil.rmtree(spec.artifact.path)
    return prove(product, replace(spec, artifact=Gguf(wide).write(product, spec.artifact.path)), proof)


def _once(folder: Path, make: Callable[[], Artifact]) -> Artifact:
    """What was written and proved there before, or is now; without its parity an export is written anew."""
    if (folder / ARTIFACT).exists():
        artifact = read_artifact(folder)
        if artifact.parity is not None:
            return artifact
    shutil.rmtree(folder, ignore_errors=True)
    artifact = make()
    write_artifact(artifact, folder)
    return artifact
