"""How a user names a model, and where it runs."""

from __future__ import annotations

from halfwatt.core.settings import Access


def training_device(access: Access) -> str:
    """Where steps learn: ``auto`` becomes the GPU when torch can use one, else the CPU."""
    if access.device != "auto":
        return access.device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def model_source(name: str) -> str:
    """``demo`` is the model that comes with halfwatt; everything else is a folder or hub id."""
    if name != "demo":
        return name
    from halfwatt import demo

    return str(demo.path())
