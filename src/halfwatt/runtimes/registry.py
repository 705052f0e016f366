"""The runtimes, in one explicit list. Their libraries are imported when a session is wanted, not before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from halfwatt.core.errors import BadInput, suggestion
from halfwatt.core.settings import Access, RuntimeName
from halfwatt.models.access import training_device
from halfwatt.runtimes.base import Runtime


@dataclass(frozen=True, slots=True)
class RuntimeEntry:
    """One runtime.

    library:       that computes, by the name that the Hugging Face hub has for it
    format:        that it reads, see `halfwatt.formats.registry`
    reuses_prefix: it can keep the KV cache of the turns before
    make:          imports the library; takes of `Access` what the runtime can be told
    """

    name: RuntimeName
    library: str
    format: str
    reuses_prefix: bool
    make: Callable[[Access], Runtime]


def _transformers_eager(access: Access) -> Runtime:
    from halfwatt.runtimes.transformers_eager import TransformersEager

    return TransformersEager(access.device, access.dtype)


def _llamacpp(access: Access) -> Runtime:
    from halfwatt.runtimes.llamacpp import LlamaCpp

    return LlamaCpp(access.device)


def _cascade(access: Access) -> Runtime:
    from halfwatt.runtimes.cascade import Cascading

    return Cascading(_llamacpp(access))


# The first is how models are commonly run; a cascade is what `optimize` makes of two artifacts.
RUNTIMES = (
    RuntimeEntry("torch_eager", "transformers", "transformers_folder", False, _transformers_eager),
    RuntimeEntry("llamacpp", "llama-cpp-python", "gguf", True, _llamacpp),
    RuntimeEntry("cascade", "llama-cpp-python", "gguf", True, _cascade),
)


def find_runtime(name: str) -> RuntimeEntry | None:
    """The row called ``name``; None for a runtime of another program, which an artifact may name."""
    return next((row for row in RUNTIMES if row.name == name), None)


def by_name(name: str) -> RuntimeEntry:
    """The row called ``name``; auto = as models are commonly run.

    Raises:
        BadInput: there is none; says which there are.
    """
    row = RUNTIMES[0] if name == "auto" else find_runtime(name)
    if row is None:
        raise BadInput("no such runtime", got=name, hint=suggestion(name, [each.name for each in RUNTIMES]))
    return row


def serving_device(access: Access) -> str:
    """Where a model is served: ``auto`` becomes the GPU when every runtime can use one, else the CPU."""
    device = training_device(access)
    if access.device != "auto" or device == "cpu":
        return device
    from llama_cpp import llama_cpp as llama

    return device if llama.llama_supports_gpu_offload() else "cpu"
