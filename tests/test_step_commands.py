"""The verbs of the steps, as typed: their flags are the step's fields, their faults one line."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from typer.exceptions import TyperException

from halfwatt import step_commands
from halfwatt.errors import BadInput
from halfwatt.steps.available import STEPS
from tests import taught, tiny
from tests.test_cli import halfwatt


def not_run(*_: Any) -> None:
    raise AssertionError("nothing is done before the line is read")


@pytest.mark.parametrize("name", ["trim", "prune", "distil"])
def test_every_field_is_a_flag_with_its_own_words(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    step_commands.command(name, not_run)(args=["--help"], standalone_mode=False)
    said = capsys.readouterr().out
    for field in dataclasses.fields(STEPS[name]):  # type: ignore[arg-type]
        assert f"--{field.name.replace('_', '-')}" in said


def test_a_wrong_flag_and_a_wrong_value_are_usage(tmp_path: Path) -> None:
    for line in (["x", "-o", str(tmp_path), "--fnf", "1"], ["x", "-o", str(tmp_path), "--ffn", "half"], ["x"]):
        with pytest.raises(TyperException, match=r"fnf|valid number|Missing"):
            step_commands.command("prune", not_run)(args=line, standalone_mode=False)


def test_a_step_writes_a_folder_that_the_next_step_takes(tmp_path: Path) -> None:
    told = taught.dialogues()[:20]
    model, chats = tiny.folder(tmp_path, "llama", width=128), taught.chats(tmp_path, told)
    done = halfwatt("prune", model, "-d", chats, "-o", tmp_path / "small", "--ffn", "0.67", "--json")
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert made["parameters"][1] < made["parameters"][0]
    again = halfwatt("distil", tmp_path / "small", "-d", chats, "-o", tmp_path / "taught", "--teacher", model)
    assert again.returncode == 0, again.stderr
    assert "distilled (logits" in again.stdout
    assert "energy not measured" in again.stdout
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".taught")) == []
    refused = halfwatt("prune", model, "-d", chats, "-o", tmp_path / "small")
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1


def test_problems_are_named_before_any_work(tmp_path: Path) -> None:
    from halfwatt.api import Options, transform
    from halfwatt.steps.prune import Prune

    model = tiny.folder(tmp_path, "llama")
    with pytest.raises(BadInput, match="ffn is a share"):
        transform(
            str(model), Prune(ffn=2.0), tmp_path / "out", taught.chats(tmp_path, taught.dialogues()), None, Options()
        )
    assert not (tmp_path / "out").exists()
