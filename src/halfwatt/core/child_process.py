"""A child process that answers orders, one JSON object a line, and what its two ends share.

parent: `ChildProcess`              child: python -P -m MODULE
  send(order)               ->        a line of stdin
  receive(), asleep         <-        a line of `protocol_stream()`; an error as `error_record` has it
  close()                   ->        end of file on stdin: the signal to leave
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from queue import SimpleQueue
from typing import IO, Any, Self

from halfwatt.core.errors import EnvironmentFault, HalfwattError
from halfwatt.core.json_records import adapter

_GRACE_S = 2.0


def module_command(module: str) -> tuple[str, ...]:
    """The command that runs a module in this interpreter."""
    return (sys.executable, "-P", "-m", module)  # -P: never a ``random.py`` that lies in the user's working folder


class ChildDied(EnvironmentFault):
    """A process ended before it had answered."""


class ChildProcess:
    """The parent's end. Every wait is asleep on a pipe: a parent that measures does not heat the bench."""

    def __init__(self, command: Sequence[str], name: str) -> None:
        """Start it. ``name`` stands in messages: "the NAME process ended"."""
        self._name = name
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the process; closed in close()
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            bufsize=1,
            start_new_session=True,  # Ctrl-C reaches the parent, which closes the child in order
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._orders, self._answers = self.process.stdin, self.process.stdout

    def send(self, order: Any) -> None:
        """Hand over a record.

        Raises:
            ChildDied: it is gone.
        """
        try:
            self._orders.write(adapter(type(order)).dump_json(order).decode() + "\n")
            self._orders.flush()
        except BrokenPipeError:
            raise self._died() from None

    def receive(self, timeout_s: float | None = None) -> dict[str, Any]:
        """The next answer; a timeout is for children that answer once an order.

        Raises:
            ChildDied: it ended, or did not answer in time; carries the last line that it wrote.
            HalfwattError: its own error.
        """
        if timeout_s is not None and not select.select([self._answers], [], [], timeout_s)[0]:
            raise ChildDied(f"the {self._name} process did not answer within {timeout_s:.0f} s")
        if not (line := self._answers.readline()):
            raise self._died()
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise error_of_record(answer)
        return answer

    def close(self, patience_s: float = 10.0) -> None:
        """End the process; it is killed when it does not leave by itself."""
        with suppress(BrokenPipeError):  # it died, and an order that never reached it is still in the buffer
            self._orders.close()
        try:
            self.process.wait(timeout=patience_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._answers.close()
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _died(self) -> ChildDied:
        code = self.process.wait()
        self._log.seek(0)
        last = self._log.read().strip().rpartition("\n")[2] or None
        hint = "out of memory? see the system's log" if code == -9 else None
        return ChildDied(f"the {self._name} process ended with code {code}", got=last, hint=hint)


def error_record(error: Exception) -> dict[str, str]:
    """An error as `error_of_record` takes it; where it came from goes to stderr."""
    traceback.print_exception(error)
    return {"error": str(error) or repr(error), "kind": type(error).__name__}


def error_of_record(answer: dict[str, str]) -> HalfwattError:
    """Another process's own error, again as the class it was, so that the exit code stays right."""
    kinds = {k.__name__: k for k in _all_errors(HalfwattError)}
    return kinds.get(answer["kind"], EnvironmentFault)(answer["error"])


def _all_errors(root: type[HalfwattError]) -> list[type[HalfwattError]]:
    return [root, *(k for child in root.__subclasses__() for k in _all_errors(child))]


def orders(source: IO[str]) -> Iterator[str]:
    """The child's end: the lines of stdin as they come. When it ends, as it does when the parent dies however it died,
    the child is given a moment to end by itself, whatever it is at, and no more."""
    lines = SimpleQueue[str]()

    def read() -> None:
        for line in source:
            lines.put(line)
        lines.put("")
        time.sleep(_GRACE_S)
        os._exit(1)

    threading.Thread(target=read, daemon=True).start()
    yield from iter(lines.get, "")


def protocol_stream() -> IO[str]:
    """The child's end: a private copy of stdout; libraries may print, and what they print goes to stderr."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return out
