"""The architectures that there are: one a module of this package, which is all that a new one needs."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from transformers import PreTrainedModel

from halfwatt.core.errors import ModelError
from halfwatt.models.architectures.base import Architecture


@cache
def architectures() -> dict[str, Architecture]:
    """Class name -> architecture."""
    modules = [import_module(f"{__package__}.{m.name}") for m in iter_modules([str(Path(__file__).parent)])]
    objects: list[Architecture] = [module.ARCHITECTURE for module in modules if hasattr(module, "ARCHITECTURE")]
    return {architecture.class_name: architecture for architecture in objects}


def by_class_name(class_name: str, of: str = "this network") -> Architecture:
    """The architecture of a transformers class; ``of`` names the model in the error.

    Raises:
        ModelError: it is not supported; names those that are.
    """
    if class_name not in architectures():
        raise ModelError(
            f"the architecture of {of} is not supported",
            got=class_name,
            hint="supported are " + ", ".join(architectures()),
        )
    return architectures()[class_name]


def architecture_of(network: PreTrainedModel) -> Architecture:
    """The architecture of a network.

    Raises:
        ModelError: it is not supported; names those that are.
    """
    return by_class_name(type(network).__name__)
