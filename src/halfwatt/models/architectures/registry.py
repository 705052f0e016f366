"""The architectures that there are: one a module of this package, which is all that a new one needs."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedModel

from halfwatt.core.errors import ModelError
from halfwatt.models.architectures.base import Architecture


@cache
def architectures() -> dict[str, Architecture]:
    """Class name -> architecture."""
    modules = [import_module(f"{__package__}.{m.name}") for m in iter_modules([str(Path(__file__).parent)])]
    return {m.ARCHITECTURE.class_name: m.ARCHITECTURE for m in modules if hasattr(m, "ARCHITECTURE")}


def by_class_name(class_name: str, of: str = "this network") -> Architecture:
    """The architecture of a transformers class; ``of`` names the model in the error.

    Raises:
        ModelError: it is not supported; names those that are.
    """
    if (own := architectures().get(class_name)) is None:
        hint = "supported are " + ", ".join(architectures())
        raise ModelError(f"the architecture of {of} is not supported", got=class_name, hint=hint)
    return own


def architecture_of(network: PreTrainedModel) -> Architecture:
    """The architecture of a network, or `by_class_name`'s error."""
    return by_class_name(type(network).__name__)


def computing(
    name: str, keys: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]
) -> tuple[Architecture, Any] | None:
    """The architecture and the config by which a GGUF file is computed, see `Architecture.gguf_config`; None = none."""
    for own in architectures().values():
        if own.reads_gguf and (entries := own.gguf_config(name, keys, tensors)) is not None:
            stops = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))  # the class's own may lie outside
            return own, AutoConfig.for_model(own.model_type, architectures=[own.class_name], **stops, **entries)
    return None


def named_in(config: Mapping[str, Any], of: str) -> Architecture:
    """The architecture that a model's config.json names.

    Raises:
        ModelError: it is not supported, or the file contradicts itself.
    """
    names, kind = config.get("architectures"), config.get("model_type")
    class_name = names[0] if isinstance(names, list) and names else None
    if around := [own for own in architectures().values() if own.around == (class_name, kind)]:
        return around[0]
    own = by_class_name(str(class_name or kind or "none named"), of)
    if kind != own.model_type:
        raise ModelError(f"config.json of {of} contradicts itself", got=f"{class_name} with model_type {kind!r}")
    return own
