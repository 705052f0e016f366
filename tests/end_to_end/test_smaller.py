"""The whole path to a smaller model: a chain of steps that learns, and a search that begins with a student."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from halfwatt.compress import recipe
from tests.support import command_line as typed
from tests.support import taught_students as taught
from tests.support.whole_runs import halfwatt, optimizing, read


class Llama(NamedTuple):
    """A taught model and its chats."""

    model: Path
    chats: Path


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Llama:
    folder, told = tmp_path_factory.mktemp("llama"), taught.dialogues()
    return Llama(taught.folder(folder, "llama", told), taught.chats(folder, told))


RECIPE = """name = "student"
[[step]]
use = "trim"
[[step]]
use = "prune"
ffn = 0.7
drop = 1
[[step]]
use = "distil"
epochs = 12
lr = 4e-3
batch_tokens = 1024
temperature = 1.0
cached = 16
[[step]]
use = "train-on-grid"
bits = 8
epochs = 2
batch_tokens = 1024
"""


def test_a_chain_that_learns_is_made_measured_judged_and_says_what_it_cost(llama: Llama, tmp_path: Path) -> None:
    (tmp_path / "student.toml").write_text(RECIPE)
    line = optimizing(llama.model, llama.chats, tmp_path / "out")
    done = halfwatt(*line, "--recipe", tmp_path / "student.toml", "--replies-per-hour", "200")
    assert done.returncode in (0, 1), done.stderr
    trial = read(tmp_path / "out")["trials"][0]
    assert trial["status"] == "done", trial["reason"]
    assert {c["verdict"] for c in trial["quality"]["checks"] if c["layer"] == "G0"} == {"PASS"}
    assert [s["tokens"] > 0 and s["cpu_s"] > 0 for s in trial["artifact"]["spent"]] == [True, True]
    assert "repaid after" in (tmp_path / "out" / "report.html").read_text()
    assert typed.halfwatt("verify", tmp_path / "out" / "result.json").returncode == 0
    assert read(tmp_path / "out")["profile"]["replies_per_hour"] == 200


def test_a_search_tries_recipes_until_its_budget_is_spent(llama: Llama, tmp_path: Path) -> None:
    student, out = tmp_path / "student", tmp_path / "out"
    made = typed.halfwatt("prune", llama.model, "-d", llama.chats, "--drop", "1", "-o", student)
    assert made.returncode == 0, made.stderr
    line = [*optimizing(llama.model, llama.chats, out), "--candidate", str(student), "--budget"]
    found = halfwatt(*line, "4")
    assert found.returncode in (0, 1), found.stderr
    tried = read(out)["trials"]
    expected = ["student, int4 GPTQ", "original, int4 GPTQ", "original, int8", "student, int4 GPTQ, draft 4"]
    assert [t["name"] for t in tried] == expected
    assert "Adopt" in tried[0]["recipe"][0]
    assert "Draft" in tried[3]["recipe"][-1]
    assert tried[3]["artifact"]["draft"]
    assert not (out / "best-so-far.json").exists(), "there is a winner now"
    if (won := read(out)["winner"]) != "B1":
        assert recipe.read_recipe(out / "winner" / "recipe.toml").name == won
    longer = typed.halfwatt(*line, "5")  # its sealed split has been opened
    assert longer.returncode == 2
    assert "holds a run with another budget" in longer.stderr
    assert typed.halfwatt(*line, "soon").returncode == 2
