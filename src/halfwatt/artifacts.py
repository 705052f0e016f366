"""What a user names on the command line, as something that can be served.

A MODEL is a folder that halfwatt made (it holds ``artifact.json``), a Hugging Face folder, a hub id, or ``demo``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from halfwatt.files import write_atomic
from halfwatt.records import Artifact, OperatingPoint, from_json, to_json
from halfwatt.worker import Spec

ARTIFACT = "artifact.json"
OPERATING_POINT = "operating_point.json"
RuntimeChoice = Literal["auto", "torch_eager", "llamacpp"]


@dataclass(frozen=True, slots=True)
class Access:
    """How models are reached and where they run."""

    device: str = "cpu"
    dtype: str = "auto"
    offline: bool = False
    chat_template: Path | None = None

    def resolved(self) -> Access:
        """``auto`` becomes the GPU when both runtimes can use one, else the CPU."""
        if self.device != "auto":
            return self
        import torch
        from llama_cpp import llama_cpp as llama

        both = torch.cuda.is_available() and llama.llama_supports_gpu_offload()
        return replace(self, device="cuda" if both else "cpu")

    def trains_on(self) -> str:
        """Where steps learn: ``auto`` becomes the GPU when torch can use one, else the CPU."""
        if self.device != "auto":
            return self.device
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"


def read_artifact(folder: Path) -> Artifact:
    """The artifact in ``folder``, wherever the folder was moved to."""
    found = from_json((folder / ARTIFACT).read_bytes(), Artifact)
    holds_model = (folder / "model.gguf").exists() or (folder / "config.json").exists()
    return replace(found, path=folder) if holds_model else found


def read_operating_point(folder: Path) -> OperatingPoint:
    """The operating point stored beside the artifact; the runtime's defaults when there is none."""
    path = folder / OPERATING_POINT
    return from_json(path.read_bytes(), OperatingPoint) if path.exists() else OperatingPoint()


def write_operating_point(folder: Path, at: OperatingPoint) -> None:
    """Store ``at`` beside the artifact, for `chat`, `measure` and `compare`."""
    write_atomic(folder / OPERATING_POINT, to_json(at).encode())


def model_source(name: str) -> str:
    """``demo`` is the model that comes with halfwatt; everything else is a folder or hub id."""
    if name != "demo":
        return name
    from halfwatt import demo

    return str(demo.path())


def servable(name: str, access: Access, cache: Path, runtime: RuntimeChoice = "auto") -> Spec:
    """Make ``name`` servable: as it is when halfwatt made it, else in ``runtime`` (auto: as commonly run).

    Args:
        cache: folder for an export, when one is needed.

    Raises:
        ModelError: the model cannot be used; says why.
    """
    from halfwatt.chat_model import load
    from halfwatt.recipe import Recipe
    from halfwatt.runtimes.llamacpp import LlamaCpp
    from halfwatt.runtimes.torch_eager import TorchEager

    folder = Path(name)
    if (folder / ARTIFACT).exists():
        return Spec(read_artifact(folder), read_operating_point(folder), access.device, access.dtype)
    model = load(
        model_source(name),
        chat_template=access.chat_template,
        device="cpu",
        dtype=access.dtype,
        offline=access.offline,
    )
    target = cache / f"{runtime}-{Recipe(runtime).fingerprint(model.sha256)}"
    if (target / ARTIFACT).exists():
        return Spec(read_artifact(target), OperatingPoint(), access.device, access.dtype)
    if runtime == "llamacpp":
        artifact = LlamaCpp(device=access.device).export(model, target)
        return Spec(artifact, OperatingPoint(), access.device, access.dtype)
    artifact = TorchEager(access.device, access.dtype).export(model, target)
    return Spec(artifact, OperatingPoint(reuse_prefix=False), access.device, access.dtype)
