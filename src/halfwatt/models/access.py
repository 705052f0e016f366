"""How a user names a model, how it is reached and where it runs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from halfwatt.models.chat_model import ChatModel, load


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


def model_source(name: str) -> str:
    """``demo`` is the model that comes with halfwatt; everything else is a folder or hub id."""
    if name != "demo":
        return name
    from halfwatt import demo

    return str(demo.path())


def load_model(name: str, access: Access) -> ChatModel:
    """The model that a user names, as `chat_model.load` does.

    Raises:
        ModelError: it cannot be used. EnvironmentFault: it cannot be reached.
    """
    return load(model_source(name), chat_template=access.chat_template, dtype=access.dtype, offline=access.offline)
