"""What a verb asks: a model or an artifact, served. What is exported for that is proved before anybody is asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from halfwatt.core.errors import NoTemplate
from halfwatt.core.settings import RunSettings, RuntimeChoice
from halfwatt.dialogues.dialogue import Dialogue
from halfwatt.evaluate.examine import prove, prove_given, require_equal
from halfwatt.formats.gguf_given import is_as_given
from halfwatt.formats.registry import load_model
from halfwatt.models import chat_model
from halfwatt.runtimes.servable import servable
from halfwatt.runtimes.serving_process import ServingSpec
from halfwatt.search.build import prove_export

T = TypeVar("T")


def served(
    name: str, settings: RunSettings, cache: Path, runtime: RuntimeChoice, proof: Sequence[Dialogue]
) -> ServingSpec:
    """As `servable`, and equal to what it was made of, by its own record or proved here on some of ``proof``.

    Raises:
        ModelError: the model cannot be used. ExportDiffers: in its runtime it is another model.
    """
    spec = servable(name, settings.access, cache, runtime)
    if spec.artifact.runtime in ("llamacpp", "cascade"):  # as commonly run it is the model itself
        spec = proved(name, spec, settings, proof)
        require_equal(spec.artifact, settings.margins)
    return spec


def with_own_template(settings: RunSettings, serve: Callable[[RunSettings], T]) -> T:
    """What ``serve`` makes of another model than the original: the chat template that is given is the original's, so it
    is for this one only where it has none."""
    try:
        return serve(replace(settings, access=replace(settings.access, chat_template=None)))
    except NoTemplate:
        if settings.access.chat_template is None:
            raise
        return serve(settings)


def judging(name: str, settings: RunSettings, cache: Path, proof: Sequence[Dialogue]) -> ServingSpec:
    """Who tells what fits, in llama.cpp. Raises as `served`."""
    return with_own_template(settings, lambda own: served(name, own, cache, "llamacpp", proof))


def proved(name: str, spec: ServingSpec, settings: RunSettings, proof: Sequence[Dialogue]) -> ServingSpec:
    """With a parity record, where ``name`` was written to be served and has none yet."""
    if spec.artifact.parity is not None:
        return spec
    settings.progress(f"proving {name} in its own runtime")
    exported, some = spec.artifact.runtime == "llamacpp", proof[: settings.protocol.parity_dialogues]
    model = load_model(name, spec.access) if exported else chat_model.load(spec.artifact.path)
    if exported and is_as_given(spec.artifact, model):
        return replace(spec, artifact=prove_given(spec, some))
    return replace(spec, artifact=(prove_export if exported else prove)(model, spec, some))
