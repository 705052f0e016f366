"""What a user names, as something that can be served."""

from __future__ import annotations

import hashlib
from pathlib import Path

from halfwatt.core.settings import Access, RuntimeChoice
from halfwatt.formats import registry as formats
from halfwatt.formats.artifact import ARTIFACT, read_artifact
from halfwatt.formats.gguf_given import as_given, is_gguf
from halfwatt.runtimes.base import OperatingPoint, read_operating_point
from halfwatt.runtimes.registry import by_name
from halfwatt.runtimes.serving_process import ServingSpec


def servable(name: str, access: Access, cache: Path, runtime: RuntimeChoice = "auto") -> ServingSpec:
    """Make ``name`` servable: as it is when halfwatt made it, else in ``runtime`` (auto: as commonly run, which for a
    GGUF file is that file in llama.cpp).

    Args:
        cache: folder for what is written, when something is.

    Raises:
        ModelError: the model cannot be used; says why.
    """
    folder = Path(name)
    if (folder / ARTIFACT).exists():
        return ServingSpec(read_artifact(folder), read_operating_point(folder), access)
    model = formats.load_model(name, access)
    given = is_gguf(model) and (runtime == "auto" or (runtime == "llamacpp" and bool(model.run_only)))
    row = by_name("llamacpp" if given else runtime)
    of = hashlib.sha256(f"{access.dtype} {model.sha256}".encode()).hexdigest()[:12]
    target = cache / f"{row.name}-{of}"
    if not (target / ARTIFACT).exists():
        as_given(model, target) if given else formats.by_name(row.format, access.dtype).write(model, target)
    return ServingSpec(read_artifact(target), OperatingPoint(reuse_prefix=row.reuses_prefix), access)
