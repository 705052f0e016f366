"""The runtimes, in one explicit list. Their libraries are imported when one is asked for, not before."""

from __future__ import annotations

from halfwatt.core.errors import BadInput
from halfwatt.runtimes.base import Runtime


def by_name(name: str, *, device: str = "cpu", dtype: str = "auto") -> Runtime:
    """The runtime called ``name``.

    Raises:
        BadInput: there is none of that name; says which there are.
    """
    if name == "torch_eager":
        from halfwatt.runtimes.transformers_eager import TransformersEager

        return TransformersEager(device=device, dtype=dtype)
    if name == "llamacpp":
        from halfwatt.runtimes.llamacpp import LlamaCpp

        return LlamaCpp(device=device)
    raise BadInput("no such runtime", got=name, hint="there are: torch_eager, llamacpp")
