"""A candidate made in a process of its own: rounding and training may crash or run out of memory, and keep memory.

    search   maker (python -m halfwatt.search.build_process)
      order  ->  load the model, run the recipe, export, prove
             <-  what it is doing, line by line
             <-  the artifact, or the error
      (the order's pipe ends: the maker goes with the search)

One JSON object a line. Both ends are in this file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from halfwatt.core.child_process import error_of_record, error_record, protocol_stream
from halfwatt.core.errors import EnvironmentFault
from halfwatt.core.settings import Access
from halfwatt.dialogues.dialogue import Dialogue
from halfwatt.formats.artifact import Artifact


@dataclass(frozen=True, slots=True)
class BuildOrder:
    """What to make.

    model, access:  as the user named it, and how it is reached
    sha256:         of the model that the search has: the maker's must be the same
    recipe:         as TOML
    proved_on:      dialogues of the parity check
    learned_from:   dialogues for the steps
    """

    model: str
    access: Access
    sha256: str
    recipe: str
    proved_on: tuple[Dialogue, ...]
    learned_from: tuple[Dialogue, ...]
    out: Path
    seed: int
    rapl_root: str | None = None


class BuildProcessDied(EnvironmentFault):
    """The process ended before it had answered."""


# --- the search's end -------------------------------------------------------------------------------------------------


def build_in_process(order: BuildOrder, progress: Callable[[str], None]) -> Artifact:
    """The artifact, made once: its folder is named after all that it hangs on.

    Raises:
        MakerDied: out of memory, for instance. Else what `pipeline.build` raises.
    """
    from pydantic import TypeAdapter

    with subprocess.Popen(
        [sys.executable, "-m", "halfwatt.search.build_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C reaches the search, which then closes the pipe
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(TypeAdapter(BuildOrder).dump_json(order).decode() + "\n")
            process.stdin.flush()
            for line in process.stdout:
                answer = json.loads(line)
                if "doing" in answer:
                    progress(answer["doing"])
                elif "error" in answer:
                    raise error_of_record(answer)
                else:
                    return TypeAdapter(Artifact).validate_python(answer["made"])
        except BrokenPipeError:
            pass  # it died, see below
        finally:
            process.kill()
    hint = "out of memory? see the system's log" if process.returncode == -9 else None
    raise BuildProcessDied(f"the process that made it ended with code {process.returncode}", hint=hint)


# --- the maker's end --------------------------------------------------------------------------------------------------


def main() -> None:
    """Make what stdin orders."""
    from pydantic import TypeAdapter

    out = protocol_stream()
    order = TypeAdapter(BuildOrder).validate_json(sys.stdin.readline())
    threading.Thread(target=_leave_with, args=(sys.stdin,), daemon=True).start()
    try:
        artifact = _build(order, lambda text: _say(out, {"doing": text}))
        _say(out, {"made": TypeAdapter(Artifact).dump_python(artifact, mode="json")})
    except Exception as error:  # noqa: BLE001 - the process boundary: every error travels to the search
        _say(out, error_record(error))


def _build(order: BuildOrder, progress: Callable[[str], None]) -> Artifact:
    from halfwatt.compress import recipe
    from halfwatt.compress.base import StepContext
    from halfwatt.evaluate.instruments import instruments
    from halfwatt.models.access import load_model
    from halfwatt.search import build

    model, device = load_model(order.model, order.access), order.access.device
    if model.sha256 != order.sha256:
        raise EnvironmentFault(f"{order.model} has changed since the search began", hint="begin again with another -o")
    with closing(instruments(device, rapl_root=order.rapl_root)) as tools:
        context = StepContext(
            order.learned_from,
            work=order.out / "training",
            device=device,
            seed=order.seed,
            meter=tools.primary,
            progress=progress,
        )
        chain = recipe.from_toml(order.recipe, "the search's recipe")
        return build.build(model, chain, order.proved_on, order.out / "artifacts", device, context)


def _leave_with(orders: IO[str]) -> None:
    """End when the search does: it closes the pipe, or the system does."""
    orders.read()
    os._exit(1)


def _say(out: IO[str], answer: dict[str, Any]) -> None:
    print(json.dumps(answer), file=out)


if __name__ == "__main__":
    main()
