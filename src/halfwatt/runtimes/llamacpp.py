"""The llama.cpp runtime: exports a model to a GGUF file and opens sessions on it.

Torch is needed to export, not to serve: nothing here imports it before `LlamaCpp.export` is called.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from llama_cpp import llama_cpp as llama

from halfwatt.core.errors import BadInput, EnvironmentFault, ModelError
from halfwatt.core.files import new_folder, sha256_file, write_atomic
from halfwatt.core.json_records import to_json
from halfwatt.formats.artifact import Artifact
from halfwatt.models import ngram_table
from halfwatt.models.tokenizer import read_json
from halfwatt.runtimes.base import OperatingPoint
from halfwatt.runtimes.llamacpp_batched import BatchedSession
from halfwatt.runtimes.llamacpp_session import LlamaCppSession

if TYPE_CHECKING:
    from halfwatt.models.chat_model import ChatModel

GGUF, DRAFT = "model.gguf", "draft.safetensors"
_GPU_BUILD = 'CMAKE_ARGS="-DGGML_CUDA=on" pip install --force-reinstall --no-binary llama-cpp-python llama-cpp-python'


@dataclass(frozen=True, slots=True)
class LlamaCpp:
    """Exports to GGUF and serves it on the CPU, or with all layers on the GPU."""

    device: str = "cpu"

    name: ClassVar[str] = "llamacpp"

    def export(self, model: ChatModel, to: Path) -> Artifact:
        """Write ``model.gguf``, the tokenizer, template and configuration files, and ``artifact.json``.

        Raises:
            BadInput: the folder ``to`` exists already.
            ModelError: llama.cpp would compute this model differently; says what.
        """
        from halfwatt.formats.gguf import precision, write_gguf

        with new_folder(to) as part:
            written = write_gguf(model, part / GGUF)
            _write_companions(model, part)
            if model.draft is not None:
                ngram_table.write_table(model.draft, part / DRAFT)
            artifact = Artifact(
                path=to,
                runtime=self.name,
                precision=precision(model),
                size_b=written.size_b,
                weights_read_b=written.weights_read_b,
                kv_b_per_token=2 * model.architecture.kv_numbers(model.network.config),
                sha256=sha256_file(part / GGUF),
                lineage=model.lineage,
                kept=written.kept,
                context=model.architecture.context_length(model.network.config),
                spent=model.spent,
                draft=None if model.draft is None else sha256_file(part / DRAFT),
                parts=written.parts,
            )
            write_atomic(part / "artifact.json", to_json(artifact).encode())
        return artifact

    @contextmanager
    def open(self, artifact: Artifact, at: OperatingPoint) -> Iterator[LlamaCppSession]:
        """Load the artifact. llama.cpp is handed only files that `export` wrote: the hash is checked first.

        Raises:
            ModelError: the file is missing, was changed since its export, or cannot be loaded.
            BadInput: the operating point asks for something this runtime does not do.
            EnvironmentFault: a GPU is asked for and this build of llama.cpp has none.
        """
        _check_device(self.device)
        if at.batch > 1 and at.speculation is not None:
            raise BadInput("llamacpp guesses ahead for one dialogue at a time", got=f"batch {at.batch}")
        gguf = artifact.path / GGUF
        if not gguf.exists():
            raise ModelError(f"no {GGUF} in {artifact.path}", hint="export the model again")
        if (digest := sha256_file(gguf)) != artifact.sha256:
            raise ModelError(
                f"{gguf} is not the file that was exported",
                got=f"sha256 {digest[:12]}",
                hint="export the model again",
            )
        on_gpu = self.device == "cuda"
        if at.batch > 1:
            session: LlamaCppSession = BatchedSession(artifact, str(gguf), at, gpu=on_gpu)
        else:
            session = LlamaCppSession(artifact, str(gguf), at, _table(artifact, at), gpu=on_gpu)
        try:
            yield session
        finally:
            session.close()


def _table(artifact: Artifact, at: OperatingPoint) -> ngram_table.NgramTable | None:
    """The artifact's table of drafts, where the operating point asks for it."""
    if at.speculation is None or at.speculation.kind != "table":
        return None
    path = artifact.path / DRAFT
    if artifact.draft is None or not path.exists():
        raise BadInput(f"{artifact.path} holds no table of drafts", hint="add the step draft to its recipe")
    if (digest := sha256_file(path)) != artifact.draft:
        raise ModelError(f"{path} is not the file that was exported", got=f"sha256 {digest[:12]}")
    return ngram_table.read_table(path)


def _check_device(device: str) -> None:
    if device not in ("cpu", "cuda"):
        raise BadInput("llamacpp runs on cpu or cuda", got=device)
    if device == "cuda" and not llama.llama_supports_gpu_offload():
        raise EnvironmentFault("this build of llama-cpp-python has no GPU support", hint=_GPU_BUILD)


def _write_companions(model: ChatModel, folder: Path) -> None:
    """The model's own sampling settings with the whole list of stop tokens, and the tokenizer with its template.

    No config.json: the GGUF file holds the settings, and with one there transformers needs torch to read a tokenizer.
    """
    path = model.source / "generation_config.json"
    generation = read_json(path) if path.exists() else {}
    generation["eos_token_id"] = list(model.tokenizer.eos_ids)
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2), encoding="utf-8")
    model.tokenizer.save(folder)
