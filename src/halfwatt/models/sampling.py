"""How reply tokens are chosen, and what a model's generation_config.json asks for."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from halfwatt.core.errors import ModelError
from halfwatt.models.tokenizer import read_json

_LONGEST = 40  # characters of a value that is told


def _count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _some(value: Any) -> bool:
    return _count(value) and value > 0


def _number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _listed(entry: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(entry, value))


def _either(*kinds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: any(kind(value) for kind in kinds)


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _decay(value: Any) -> bool:
    return _listed(_number)(value) and len(value) == 2


def _bias(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and _listed(_count)(value[0]) and _number(value[1])


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


Kind = tuple[Any, Callable[[Any], bool]]  # what is "off", besides nothing and an empty list, and what a value has to be
_TOKENS, _WORDS = _listed(_count), _listed(_listed(_count))
ONLY_TRANSFORMERS: dict[str, Kind] = {  # settings that change greedy replies too
    "bad_words_ids": (None, _WORDS),
    "begin_suppress_tokens": (None, _TOKENS),
    "encoder_no_repeat_ngram_size": (0, _count),
    "encoder_repetition_penalty": (1, _number),
    "exponential_decay_length_penalty": (None, _decay),
    "forced_bos_token_id": (None, _count),
    "forced_eos_token_id": (None, _either(_count, _TOKENS)),
    "guidance_scale": (1, _number),
    "min_length": (0, _count),
    "min_new_tokens": (0, _count),
    "no_repeat_ngram_size": (0, _count),
    "num_beams": (1, _some),
    "sequence_bias": (None, _listed(_bias)),
    "stop_strings": (None, _either(_text, _listed(_text))),
    "suppress_tokens": (None, _TOKENS),
}
AND_DRAWN: dict[str, Kind] = {
    "epsilon_cutoff": (0, _number),
    "eta_cutoff": (0, _number),
    "top_h": (None, _number),
    "typical_p": (1, _number),
}
_OF_BEAMS: dict[str, Kind] = {"early_stopping": (False, _either(_flag, _text)), "length_penalty": (1, _number)}
_GONE: dict[str, Kind] = dict.fromkeys(("constraints", "dola_layers", "force_words_ids"), (None, lambda _: True)) | {
    "num_beam_groups": (1, _number),
    "penalty_alpha": (0, _number),
}
_OWN = ONLY_TRANSFORMERS | AND_DRAWN | _OF_BEAMS


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
    path, entries = folder / "generation_config.json", _entries(folder)
    drawn = entries.get("do_sample", False)
    defaults: dict[str, Any] = {"repetition_penalty": 1.0, "max_new_tokens": 256}
    if drawn is True:
        defaults |= {"temperature": 1.0, "top_k": 50, "top_p": 1.0, "min_p": 0.0}
    odd = {n: entries[n] for n, value in defaults.items() if not _fits(entries.get(n, value), value)}
    if odd or not _flag(drawn):
        name, value = next(iter((odd or {"do_sample": drawn}).items()))
        raise _cannot_be(path, name, value)
    sampling = Sampling(**{name: type(value)(entries.get(name, value)) for name, value in defaults.items()})
    sound = sampling.temperature >= 0 and sampling.top_k >= 0 and 0 < sampling.top_p <= 1 and 0 <= sampling.min_p <= 1
    if not (sound and sampling.repetition_penalty > 0 and sampling.max_new_tokens > 0):
        raise ModelError(f"{path} asks for sampling that cannot be", got=str(sampling))
    if gone := _asked_for(path, entries, _GONE):
        raise ModelError(f"{path} asks for what transformers 5 does not do", got=_in_words(gone)[0], hint="take it out")
    acting = ONLY_TRANSFORMERS | (AND_DRAWN if sampling.temperature > 0 else {})
    beyond = {name: value for name, value in _asked_for(path, entries, _OWN).items() if name in acting}
    return replace(sampling, only_transformers=_in_words(beyond))


def own_settings(folder: Path) -> dict[str, Any]:
    """What generation_config.json asks for that only transformers does, and is not off, by name.

    Raises:
        ModelError: a value that cannot be.
    """
    return _asked_for(folder / "generation_config.json", _entries(folder), _OWN)


def _entries(folder: Path) -> dict[str, Any]:
    path = folder / "generation_config.json"
    return {name: value for name, value in (read_json(path) if path.exists() else {}).items() if value is not None}


def _fits(value: Any, default: float) -> bool:
    """Whole numbers may be written as 50.0."""
    return _number(value) and (isinstance(default, float) or value == int(value))


def _asked_for(path: Path, entries: dict[str, Any], settings: dict[str, Kind]) -> dict[str, Any]:
    """Those of ``settings`` that are not off."""
    asked = {n: v for n in settings if (v := entries.get(n)) is not None and v not in ([], {}, "")}
    if odd := [name for name, value in asked.items() if not settings[name][1](value)]:
        raise _cannot_be(path, odd[0], asked[odd[0]])
    return {name: value for name, value in asked.items() if value != settings[name][0]}


def _cannot_be(path: Path, name: str, value: Any) -> ModelError:
    return ModelError(f"{path} holds a value that cannot be", got=f"{name} = {repr(value)[:_LONGEST]}")


def _in_words(asked: dict[str, Any]) -> tuple[str, ...]:
    return tuple(f"{name} = {str(value)[:_LONGEST]}" for name, value in asked.items())
