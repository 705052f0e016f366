"""A training run's state on disk: the newest whole one is always there, whatever moment the process was killed at.

    folder/.step-120...part  ->  folder/step-120 (fsynced)      those before it are then removed

Tensors are safetensors, everything else is JSON; no pickles.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from halfwatt.core.files import new_folder, require_space


def write(folder: Path, tensors: Mapping[str, torch.Tensor], counters: Mapping[str, Any]) -> None:
    """The state after ``counters["step"]`` steps takes the place of the one before.

    Raises:
        EnvironmentFault: the disk is too full; the old checkpoint is untouched.
    """
    path = folder / f"step-{counters['step']}"
    if path.exists():
        return
    require_space(folder, sum(t.nbytes for t in tensors.values()))
    with new_folder(path) as part:
        save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, part / "state.safetensors")
        (part / "counters.json").write_text(json.dumps(counters))
    for other in set(folder.glob("step-*")) - {path}:
        shutil.rmtree(other, ignore_errors=True)


def newest(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
    """(tensors, counters) of the newest checkpoint, which is whole; None if there is none."""
    path = max(folder.glob("step-*"), key=lambda path: int(path.name.removeprefix("step-")), default=None)
    if path is not None:
        return load_file(path / "state.safetensors"), json.loads((path / "counters.json").read_text())
    return None


def state_tensors(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """All that training changes, by names that a file may have."""
    adam = ((f"adam.{i}", slots) for i, slots in optimizer.state_dict()["state"].items())
    tensors = {f"{key}.{name}": torch.as_tensor(value) for key, slots in adam for name, value in slots.items()}
    return {f"model.{name}": value for name, value in _unshared(module).items()} | tensors


@torch.no_grad()
def restore(tensors: Mapping[str, torch.Tensor], module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put `state_tensors` back, in place."""
    for name, value in _unshared(module).items():
        value.copy_(tensors[f"model.{name}"])
    slots: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("adam."):
            _, index, slot = name.split(".")
            slots.setdefault(int(index), {})[slot] = value
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})


def _unshared(module: nn.Module) -> dict[str, torch.Tensor]:
    """Every parameter and saved buffer once, by its first name: tied ones share their memory."""
    state = module.state_dict(keep_vars=True)
    first = {id(value): name for name, value in reversed(state.items())}
    return {name: value for name, value in state.items() if first[id(value)] == name}
