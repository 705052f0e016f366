"""What a user names, as something that can be served."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from halfwatt.core.files import write_atomic
from halfwatt.core.json_records import from_json, to_json
from halfwatt.core.settings import Access
from halfwatt.formats.artifact import ARTIFACT, read_artifact
from halfwatt.models.access import model_source
from halfwatt.runtimes.base import OperatingPoint
from halfwatt.runtimes.serving_process import ServingSpec

OPERATING_POINT = "operating_point.json"

RuntimeChoice = Literal["auto", "torch_eager", "llamacpp"]


def read_operating_point(folder: Path) -> OperatingPoint:
    """The operating point stored beside the artifact; the runtime's defaults when there is none."""
    path = folder / OPERATING_POINT
    return from_json(path.read_bytes(), OperatingPoint) if path.exists() else OperatingPoint()


def write_operating_point(folder: Path, at: OperatingPoint) -> None:
    """Store ``at`` beside the artifact, for `chat`, `measure` and `compare`."""
    write_atomic(folder / OPERATING_POINT, to_json(at).encode())


def servable(name: str, access: Access, cache: Path, runtime: RuntimeChoice = "auto") -> ServingSpec:
    """Make ``name`` servable: as it is when halfwatt made it, else in ``runtime`` (auto: as commonly run).

    Args:
        cache: folder for an export, when one is needed.

    Raises:
        ModelError: the model cannot be used; says why.
    """
    from halfwatt.compress.recipe import Recipe
    from halfwatt.models.chat_model import load
    from halfwatt.runtimes.llamacpp import LlamaCpp
    from halfwatt.runtimes.transformers_eager import TransformersEager

    folder = Path(name)
    if (folder / ARTIFACT).exists():
        return ServingSpec(read_artifact(folder), read_operating_point(folder), access.device, access.dtype)
    model = load(
        model_source(name),
        chat_template=access.chat_template,
        device="cpu",
        dtype=access.dtype,
        offline=access.offline,
    )
    target = cache / f"{runtime}-{Recipe(runtime).fingerprint(model.sha256)}"
    if (target / ARTIFACT).exists():
        return ServingSpec(read_artifact(target), OperatingPoint(), access.device, access.dtype)
    if runtime == "llamacpp":
        artifact = LlamaCpp(device=access.device).export(model, target)
        return ServingSpec(artifact, OperatingPoint(), access.device, access.dtype)
    artifact = TransformersEager(access.device, access.dtype).export(model, target)
    return ServingSpec(artifact, OperatingPoint(reuse_prefix=False), access.device, access.dtype)
