"""The Hugging Face folder: config.json, safetensors, tokenizer, as transformers reads and writes it.

An artifact of an unmodified model points at the folder that it was loaded from; a modified one is saved.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from halfwatt.core.errors import BadInput
from halfwatt.core.files import new_folder
from halfwatt.core.settings import Access, RuntimeName
from halfwatt.formats.artifact import Artifact, write_artifact
from halfwatt.formats.base import require_writable
from halfwatt.models import model_folder
from halfwatt.models.chat_model import ChatModel, load, torch_dtype, write
from halfwatt.models.tokenizer import read_json, stored_template
from halfwatt.models.weights import weights_read

_PRECISIONS = {torch.bfloat16: "bf16", torch.float16: "f16", torch.float32: "f32", torch.float64: "f64"}


@dataclass(frozen=True, slots=True)
class TransformersFolder:
    """Implements `halfwatt.formats.base.Format`."""

    dtype: str = "auto"
    """In which the folder will be served; auto = the model's own."""

    name: ClassVar[str] = "transformers_folder"
    runtime: ClassVar[RuntimeName] = "torch_eager"

    def reads(self, source: str | Path) -> bool:
        """A folder, or what may be a hub id."""
        return not Path(source).is_file()

    def read(self, source: str | Path, access: Access) -> ChatModel:
        """See `halfwatt.models.chat_model.load`.

        Raises:
            BadInput: it is to be run only, which llama.cpp does, and that reads GGUF files.
        """
        if access.run_only:
            raise BadInput("--run-only is for a GGUF file", got=str(source), hint="leave it out, or give the file")
        return load(source, chat_template=access.chat_template, dtype=access.dtype, offline=access.offline)

    def problems(self, model: ChatModel) -> list[str]:
        """A type that none of the served precisions is; every architecture that is read is written too."""
        return [] if (served := self._served(model)) in _PRECISIONS else [f"its weights are {served}"]

    def write(self, model: ChatModel, folder: Path) -> Artifact:
        """Write ``artifact.json``, and beside it the model, unless its source folder is that model.

        Raises:
            BadInput: the folder exists already.
        """
        require_writable(model, self)
        with new_folder(folder) as part:
            if not (as_loaded := _is_its_source(model, torch_dtype(self.dtype))):
                write(model, part)
            stored = model.source if as_loaded else part
            files = model_folder.weight_files(stored)
            artifact = Artifact(
                path=model.source if as_loaded else folder,
                runtime=self.runtime,
                precision=_PRECISIONS[self._served(model)],
                size_b=sum(f.stat().st_size for f in files),
                weights_read_b=weights_read(model.network) * self._served(model).itemsize,
                kv_b_per_token=2 * model.architecture.kv_numbers(model.network.config),
                sha256=model_folder.fingerprint(stored, files, None),
                lineage=model.lineage,
                kept=model.kept,
                context=model.context,
                spent=model.spent,
            )
            write_artifact(artifact, part)
        return artifact

    def _served(self, model: ChatModel) -> torch.dtype:
        return torch_dtype(self.dtype) or model.network.dtype


def _is_its_source(model: ChatModel, dtype: torch.dtype | None) -> bool:
    """Does the source folder, read in ``dtype`` (None: as stored), give this very model?"""
    if len(model.lineage) > 1 or model.grid or not (model.source / "config.json").exists():
        return False
    config = read_json(model.source / "config.json")
    stored = getattr(torch, str(config.get("dtype") or config.get("torch_dtype")), None)
    same_type = dtype is not None or stored == model.network.dtype
    return same_type and stored_template(model.source, model.tokenizer.hf) == model.tokenizer.template
