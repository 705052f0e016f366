"""How reply tokens are chosen, and what a model's generation_config.json asks for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halfwatt.core.errors import ModelError
from halfwatt.models.tokenizer import read_json


@dataclass(frozen=True, slots=True)
class Sampling:
    """How reply tokens are chosen. ``temperature`` 0 = greedy."""

    temperature: float = 0.0
    top_k: int = 0  # 0 = off
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    max_new_tokens: int = 256
    seed: int = 0


def read_sampling(folder: Path) -> Sampling:
    """The sampling that generation_config.json asks for, with transformers' defaults where it is silent.

    A config that does not set ``do_sample`` is greedy; one that does samples at temperature 1 from the best 50. The cap
    on new tokens is 256 where none is given (transformers' own 20 cuts every reply short).

    Raises:
        ModelError: a value that cannot be.
    """
    path = folder / "generation_config.json"
    entries = {k: v for k, v in (read_json(path) if path.exists() else {}).items() if v is not None}
    defaults: dict[str, Any] = {"repetition_penalty": 1.0, "max_new_tokens": 256}
    if entries.get("do_sample"):
        defaults |= {"temperature": 1.0, "top_k": 50, "top_p": 1.0, "min_p": 0.0}
    try:
        sampling = Sampling(**{name: type(value)(entries.get(name, value)) for name, value in defaults.items()})
    except (TypeError, ValueError) as error:
        raise ModelError(f"{path} holds a value that is not a number", got=str(error)) from error
    sound = sampling.temperature >= 0 and sampling.top_k >= 0 and 0 < sampling.top_p <= 1 and 0 <= sampling.min_p <= 1
    if not (sound and sampling.repetition_penalty > 0 and sampling.max_new_tokens > 0):
        raise ModelError(f"{path} asks for sampling that cannot be", got=str(sampling))
    return sampling
