"""How reply tokens are chosen, and what a model's generation_config.json asks for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from halfwatt.core.errors import ModelError
from halfwatt.models.tokenizer import read_json

_LONGEST = 40  # characters of a value that is told
ONLY_TRANSFORMERS: dict[str, Any] = {  # settings that change greedy replies too, and what each has for "off"
    "bad_words_ids": [],
    "begin_suppress_tokens": [],
    "encoder_no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1.0,
    "exponential_decay_length_penalty": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "guidance_scale": 1.0,
    "min_length": 0,
    "min_new_tokens": 0,
    "no_repeat_ngram_size": 0,
    "num_beams": 1,
    "sequence_bias": [],
    "stop_strings": [],
    "suppress_tokens": [],
}
AND_DRAWN: dict[str, Any] = {"epsilon_cutoff": 0.0, "eta_cutoff": 0.0, "top_h": None, "typical_p": 1.0}
_GONE: dict[str, Any] = dict.fromkeys(("constraints", "dola_layers", "force_words_ids")) | {
    "num_beam_groups": 1,
    "penalty_alpha": 0.0,
}


@dataclass(frozen=True, slots=True)
class Sampling:
    """How reply tokens are chosen. ``temperature`` 0 = greedy.

    only_transformers: what else generation_config.json asks for, in words; no other runtime here does it
    """

    temperature: float = 0.0
    top_k: int = 0  # 0 = off
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    max_new_tokens: int = 256
    seed: int = 0
    only_transformers: tuple[str, ...] = ()


def read_sampling(folder: Path) -> Sampling:
    """The sampling that generation_config.json asks for, with transformers' defaults where it is silent.

    A config that does not set ``do_sample`` is greedy; one that does samples at temperature 1 from the best 50. The cap
    on new tokens is 256 where none is given (transformers' own 20 cuts every reply short).

    Raises:
        ModelError: a value that cannot be, or a way of generating that transformers 5 has no more.
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
    if gone := _asked_for(entries, _GONE):
        raise ModelError(f"{path} asks for what transformers 5 does not do", got=gone[0], hint="take it out")
    more = ONLY_TRANSFORMERS | (AND_DRAWN if sampling.temperature > 0 else {})
    return replace(sampling, only_transformers=_asked_for(entries, more))


def _asked_for(entries: dict[str, Any], settings: dict[str, Any]) -> tuple[str, ...]:
    """Those of ``settings`` that are not off, in words."""
    asked = [name for name, off in settings.items() if entries.get(name, off) not in (off, [], {}, False)]
    return tuple(f"{name} = {str(entries[name])[:_LONGEST]}" for name in asked)
