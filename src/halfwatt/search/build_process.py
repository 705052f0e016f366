"""A candidate built in a process of its own: rounding and training may crash or run out of memory, and keep memory.

    search   builder (python -P -m halfwatt.search.build_process), which goes when the request's pipe ends
      request ->  load the model, apply the recipe, export, prove
              <-  what it is doing, line by line
              <-  the artifact, or the error

Not a pool of Python's own: that would run a user's script, which may have no guard around its main part, once more.
"""

from __future__ import annotations

import json
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from halfwatt.core.child_process import ChildDied, ChildProcess, error_record, module_command, orders, protocol_stream
from halfwatt.core.errors import EnvironmentFault, HalfwattError
from halfwatt.core.json_records import adapter
from halfwatt.core.settings import Access, Precision, RunSettings
from halfwatt.core.types import Progress
from halfwatt.dialogues.dialogue import Dialogue
from halfwatt.formats.artifact import Artifact


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """What to build, and what with."""

    model: str  # as the user named it
    access: Access
    sha256: str  # of the model that the search has: the builder's must be the same
    recipe: str  # as TOML
    proof: tuple[Dialogue, ...]  # of the parity check
    learned_from: tuple[Dialogue, ...]  # by the steps
    out: Path
    seed: int
    precision: Precision = "auto"
    rapl_root: str | None = None
    threads: int | None = None  # to compute with; None = one a core


def build_in_process(request: BuildRequest, progress: Progress) -> Artifact:
    """The artifact. Raises ChildDied, out of memory for instance, and what `build_artifact` raises."""
    with ChildProcess(module_command("halfwatt.search.build_process"), "building") as process:
        process.send(request)
        while "doing" in (answer := process.receive()):
            progress(answer["doing"])
        return adapter(Artifact).validate_python(answer["artifact"])


def main() -> None:
    """The builder's end: build what stdin asks for."""
    out = protocol_stream()
    request = adapter(BuildRequest).validate_json(next(orders(sys.stdin)))
    try:
        artifact = _build(request, lambda text: _answer(out, {"doing": text}))
        _answer(out, {"artifact": adapter(Artifact).dump_python(artifact, mode="json")})
    except Exception as error:  # noqa: BLE001 - the process boundary: every error travels to the search
        # What is no error of ours, running out of memory for one, ends the candidate as if the process had died.
        died = {} if isinstance(error, HalfwattError) else {"kind": ChildDied.__name__}
        _answer(out, error_record(error) | died)


def _build(request: BuildRequest, progress: Progress) -> Artifact:
    import torch

    from halfwatt.compress.base import StepContext
    from halfwatt.compress.recipe import from_toml
    from halfwatt.formats.registry import load_model
    from halfwatt.meters.discover import instruments
    from halfwatt.search.build import build_artifact

    if request.threads is not None:
        torch.set_num_threads(request.threads)
    model, device = load_model(request.model, request.access), request.access.device
    if model.sha256 != request.sha256:
        raise EnvironmentFault(
            f"{request.model} has changed since the search began", hint="begin again with another -o"
        )
    with closing(instruments(device, rapl_root=request.rapl_root)) as tools:
        settings = RunSettings(access=request.access, seed=request.seed, precision=request.precision, progress=progress)
        learned_from, cache = request.learned_from, request.out / "training"
        context = StepContext(learned_from, settings=settings, device=device, meter=tools.primary, cache=cache)
        recipe = from_toml(request.recipe, "the search's recipe")
        return build_artifact(model, recipe, request.proof, request.out / "artifacts", context, device)


def _answer(out: IO[str], record: dict[str, Any]) -> None:
    print(json.dumps(record), file=out)


if __name__ == "__main__":
    main()
