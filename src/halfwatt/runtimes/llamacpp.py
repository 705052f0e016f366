"""The llama.cpp runtime: opens sessions on GGUF files. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from llama_cpp import llama_cpp as llama

from halfwatt.core.errors import BadInput, EnvironmentFault, ModelError
from halfwatt.core.files import sha256_file
from halfwatt.core.settings import RuntimeName
from halfwatt.formats.artifact import DRAFT_FILE, GGUF_FILE, Artifact
from halfwatt.models import ngram_table
from halfwatt.runtimes.base import OperatingPoint
from halfwatt.runtimes.llamacpp_batched import BatchedSession
from halfwatt.runtimes.llamacpp_session import LlamaCppSession

_GPU_BUILD = 'CMAKE_ARGS="-DGGML_CUDA=on" pip install --force-reinstall --no-binary llama-cpp-python llama-cpp-python'


@dataclass(frozen=True, slots=True)
class LlamaCpp:
    """Serves on the CPU, or with all layers on the GPU."""

    device: str = "cpu"

    name: ClassVar[RuntimeName] = "llamacpp"

    @contextmanager
    def open(self, artifact: Artifact, at: OperatingPoint) -> Iterator[LlamaCppSession]:
        """Load the artifact. llama.cpp is handed only files that were written as GGUF here: the hash is checked first.

        Raises:
            ModelError: the file is missing, was changed since its export, or cannot be loaded.
            BadInput: not for this runtime. EnvironmentFault: a GPU is asked for and this build of llama.cpp has none.
        """
        if self.device not in ("cpu", "cuda"):
            raise BadInput("llamacpp runs on cpu or cuda", got=self.device)
        if self.device == "cuda" and not llama.llama_supports_gpu_offload():
            raise EnvironmentFault("this build of llama-cpp-python has no GPU support", hint=_GPU_BUILD)
        if at.batch > 1 and at.speculation is not None:
            raise BadInput("llamacpp guesses ahead for one dialogue at a time", got=f"batch {at.batch}")
        file = artifact.path / GGUF_FILE
        if not file.exists():
            raise ModelError(f"no {GGUF_FILE} in {artifact.path}", hint="export the model again")
        _check_hash(file, artifact.sha256)
        kind = BatchedSession if at.batch > 1 else LlamaCppSession
        with closing(kind(artifact, str(file), at, _table(artifact, at), gpu=self.device == "cuda")) as session:
            yield session


def _table(artifact: Artifact, at: OperatingPoint) -> ngram_table.NgramTable | None:
    """The artifact's table of drafts, where the operating point asks for it."""
    if at.speculation is None or at.speculation.kind != "table":
        return None
    path = artifact.path / DRAFT_FILE
    if artifact.draft is None or not path.exists():
        raise BadInput(f"{artifact.path} holds no table of drafts", hint="add the step draft to its recipe")
    _check_hash(path, artifact.draft)
    return ngram_table.read_table(path)


def _check_hash(file: Path, sha256: str) -> None:
    if (digest := sha256_file(file)) != sha256:
        got, hint = f"sha256 {digest[:12]}", "export the model again"
        raise ModelError(f"{file} is not the file that was exported", got=got, hint=hint)
