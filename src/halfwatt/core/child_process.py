"""What both ends of a pipe to a child process share: a clean channel, and errors that travel."""

from __future__ import annotations

import os
from typing import IO

from halfwatt.core.errors import EnvironmentFault, HalfwattError


def error_record(error: Exception) -> dict[str, str]:
    """An error as `error_of_record` takes it; where it came from goes to stderr."""
    import traceback

    traceback.print_exception(error)
    return {"error": str(error) or repr(error), "kind": type(error).__name__}


def error_of_record(answer: dict[str, str]) -> HalfwattError:
    """Another process's own error, again as the class it was, so that the exit code stays right."""
    kinds = {k.__name__: k for k in _all_errors(HalfwattError)}
    return kinds.get(answer["kind"], EnvironmentFault)(answer["error"])


def _all_errors(root: type[HalfwattError]) -> list[type[HalfwattError]]:
    return [root, *(k for child in root.__subclasses__() for k in _all_errors(child))]


def protocol_stream() -> IO[str]:
    """A private copy of stdout for a protocol; libraries may print, and what they print goes to stderr."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return out
