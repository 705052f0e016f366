"""Rows that are no dialogue are named one by one; names of ShareGPT are read; nothing is dropped in silence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.refusals import refused

HI: dict[str, object] = {"role": "user", "content": "Hi"}
HELLO: dict[str, object] = {"role": "assistant", "content": "Hello!"}
ROWS: dict[str, list[dict[str, object]]] = {
    "pirate": [HI, {"role": "pirate", "content": "Arr"}],
    "two messages of the user": [HI, HI, HELLO],
    "assistant": [HI],
    "null": [HI, {"role": "assistant", "content": None}],
    "image": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, HELLO],
}


def test_each_row_is_named(tmp_path: Path, model: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text("".join(json.dumps({"messages": row}) + "\n" for row in [[HI, HELLO], *ROWS.values()]))
    line = refused("measure", model, "-d", path, says=("5 of 6 rows", "pirate"), within=tmp_path)
    assert all(f"d.jsonl:{number}: " in line for number in range(2, 7))


@pytest.mark.parametrize("roles", [("human", "gpt"), ("user", "model"), ("user", "bot")])
def test_other_names_of_the_roles(roles: tuple[str, str], tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text(
        json.dumps({"conversations": [{"from": r, "value": v} for r, v in zip(roles, ("Hi", "Yes"), strict=True)]})
    )
    refused("measure", tmp_path / "no-model", "-d", path, says=("no-model",), within=tmp_path)
