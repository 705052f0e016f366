"""Every error that a user can meet, in one tree.

A message is one line: what is wrong, what was found, what to type.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import ClassVar


class HalfwattError(Exception):
    """``what`` is wrong, ``got`` instead, ``hint`` = what to do or type.

    >>> str(BadInput("no chat template", got="base model", hint="pass --chat-template FILE"))
    'no chat template (found: base model); pass --chat-template FILE'
    """

    exit_code: ClassVar[int] = 2

    def __init__(self, what: str, *, got: str | None = None, hint: str | None = None) -> None:
        self.what, self.got, self.hint = what, got, hint
        line = what if got is None else f"{what} (found: {got})"
        super().__init__(line if hint is None else f"{line}; {hint}")


class BadInput(HalfwattError):
    """What was given cannot be used. Exit code 2."""


class DialogueError(BadInput):
    """A dialogue file is faulty; names the file and the line."""


class ModelError(BadInput):
    """A model folder is faulty, unsafe or unsupported."""


class NoTemplate(ModelError):
    """A model has no chat template, and none was given."""


class RunLocked(BadInput):
    """Another process is at work in the output folder."""


class ExportDiffers(HalfwattError):
    """What was exported is not what was computed in memory. Exit code 1."""

    exit_code: ClassVar[int] = 1


class EnvironmentFault(HalfwattError):
    """This machine lacks something that the command needs. Exit code 3."""

    exit_code: ClassVar[int] = 3


class MeterError(EnvironmentFault):
    """A meter could not be read. Raised, never replaced by a number."""


class TaintedRun(EnvironmentFault):
    """Too many windows in a row were disturbed to measure anything."""


def suggestion(word: str, known: Collection[str], lead: str = "there are") -> str:
    """What someone may have meant who typed ``word``: the name that is like it, else all of them.

    >>> suggestion("prun", ("prune", "trim")), suggestion("x", ("prune", "trim"))
    ('did you mean prune?', 'there are prune, trim')
    """
    near = difflib.get_close_matches(word, known, 1)
    return f"did you mean {near[0]}?" if near else f"{lead} {', '.join(known)}"


def first_line(error: BaseException) -> str:
    """What another library's error says, in one line; the name of its class where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
