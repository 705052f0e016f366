"""A recipe: the steps that make a candidate from the original. The operating point is chosen by measuring.

name = "narrow traffic"

[[step]]                       in the order in which they are applied
use = "prune"                  a name of registry.py
ffn = 0.7                      the step's fields; what is not given has its default

[[step]]
use = "train-on-grid"
bits = 4
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from halfwatt.compress.base import Stage, Step
from halfwatt.compress.quantize.mixed_precision import Mixed
from halfwatt.compress.quantize.quantize import Quantize
from halfwatt.compress.registry import STEPS
from halfwatt.core.errors import BadInput, suggestion
from halfwatt.core.json_records import adapter
from halfwatt.core.machine import halfwatt_version


@dataclass(frozen=True, slots=True)
class Recipe:
    """Steps in the order in which they are applied; none = the original."""

    name: str
    steps: tuple[Step, ...] = ()

    def fingerprint(self, model_sha256: str, learned_from: str = "") -> str:
        """12 hex digits that change with the model, the steps, any of their fields, or the version that runs them.

        learned_from: names the dialogues and the seed that steps may learn from; "" = none
        """
        text = "\n".join([halfwatt_version(), model_sha256, *map(repr, self.steps), *filter(None, [learned_from])])
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def slug(self) -> str:
        return re.sub(r"[^A-Za-z0-9]+", "-", self.name).strip("-").lower()


def cheap_proxy(steps: Sequence[Step]) -> tuple[Step, ...]:
    """What is made in seconds and takes as much a reply, or less: nothing learned, rounded to nearest, no draft."""
    kept = (
        Quantize(4) if isinstance(s, Mixed) else s for s in steps if s.stage not in (Stage.RECOVERY, Stage.DECODING)
    )
    return tuple(replace(step, method="rtn") if isinstance(step, Quantize) else step for step in kept)


def default_recipes() -> tuple[Recipe, ...]:
    """What `optimize` tries after the original: fewer bits each time."""
    return (
        Recipe("int8", (Quantize(bits=8),)),
        Recipe("int4 + int8 head", (Quantize(bits=4, head_bits=8),)),
        Recipe("int4", (Quantize(bits=4),)),
    )


def read_recipe(path: Path) -> Recipe:
    """Read a recipe's TOML.

    Raises:
        BadInput: it cannot be read, or is not a recipe; every fault is named at once.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise BadInput(f"{path} cannot be read", got=error.strerror) from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not TOML", got=str(error)) from error
    return from_toml(text, str(path), path.stem)


def from_toml(text: str, where: str, name: str = "") -> Recipe:
    """A recipe of TOML that came from ``where``, called ``name`` unless it says what it is called.

    Raises:
        BadInput: it is none; every fault is named at once.
    """
    try:
        entries = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"{where} is not TOML", got=str(error)) from error
    rows, name = entries.pop("step", []), str(entries.pop("name", name))
    faults = [f"unknown entry '{key}'; there are name and [[step]]" for key in entries]
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        faults.append("no [[step]] tables")
        rows = []
    parsed = [_parse_step(row) for row in rows]
    faults += [f"step {number}: {fault}" for number, (_, wrong) in enumerate(parsed, start=1) for fault in wrong]
    steps = [step for step, _ in parsed if step is not None]
    faults = faults or out_of_order(steps)
    if faults:
        raise BadInput(f"{where} is not a recipe", got="; ".join(faults), hint="see docs/recipes.md")
    return Recipe(name, tuple(steps))


def to_toml(recipe: Recipe) -> str:
    """TOML that `from_toml` makes the same recipe of."""
    uses = {kind: use for use, kind in STEPS.items()}
    lines = [f"name = {json.dumps(recipe.name)}"]
    for step in recipe.steps:
        values = {f.name: getattr(step, f.name) for f in fields(step)}  # type: ignore[arg-type]
        lines += ["", "[[step]]", f"use = {json.dumps(uses[type(step)])}"]
        lines += [f"{name} = {json.dumps(value)}" for name, value in values.items() if value is not None]
    return "\n".join(lines) + "\n"


def out_of_order(steps: Sequence[Step]) -> list[str]:
    """Why these steps cannot follow each other: what a later stage made, an earlier one would undo."""
    order = "structure (trim, prune), recovery (distil), numerics (quantize), decoding (draft)"
    wrong = [(a.name, b.name) for a, b in pairwise(steps) if b.stage < a.stage]
    faults = [f"{later} cannot come after {first}: the order is {order}" for first, later in wrong]
    numeric = [s.name for s in steps if s.stage == Stage.NUMERICS]
    if len(numeric) > 1:
        faults.append(f"a model is put on the grid once, not by {' and '.join(numeric)}")
    return faults


def _parse_step(row: dict[str, Any]) -> tuple[Step | None, list[str]]:
    values = dict(row)
    use = values.pop("use", None)
    if use not in STEPS:
        return None, [f"unknown step use = {use!r}; {suggestion(str(use), STEPS)}"]
    known = [f.name for f in fields(STEPS[use])]  # type: ignore[arg-type]
    faults = [f"{use} has no '{key}'; {suggestion(key, known, 'it has')}" for key in values.keys() - set(known)]
    try:
        step = adapter(STEPS[use]).validate_python({k: v for k, v in values.items() if k in known})
    except ValidationError as error:
        return None, faults + [f"{use}.{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
    return step, faults
