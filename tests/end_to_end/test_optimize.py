"""The whole path in real processes: optimize to the end, killed and resumed, refused; then what it delivered, used."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import command_line as typed
from tests.support import taught_students as taught
from tests.support.hasty_optimize import SETTINGS
from tests.support.tiny_models import Arch
from tests.support.whole_runs import ROOT, halfwatt, optimizing, read


@dataclass(frozen=True)
class Home:
    """A taught model, its chats, and a finished run in ``out``."""

    model: Path
    chats: Path
    out: Path
    done: subprocess.CompletedProcess[str]


BOTH_GRIDS = """name = "both grids"
[[step]]
use = "quantize"
bits = 4
head_bits = 8
"""


def finished(arch: Arch, folder: Path) -> Home:
    """The whole ladder for llama; for the others one rung of both grids."""
    model, chats = taught.folder(folder, arch, taught.dialogues()), taught.chats(folder, taught.dialogues())
    line: list[str | Path] = [*optimizing(model, chats, folder / "out")]
    if arch != "llama":
        (folder / "both.toml").write_text(BOTH_GRIDS)
        line += ["--recipe", folder / "both.toml"]
    return Home(model, chats, folder / "out", halfwatt(*line))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return finished("llama", tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module", params=["llama", "gpt2"])  # the others: tests/contracts/architectures.py
def home(request: pytest.FixtureRequest, llama: Home, tmp_path_factory: pytest.TempPathFactory) -> Home:
    return llama if request.param == "llama" else finished(request.param, tmp_path_factory.mktemp(request.param))


def test_every_rung_is_exported_proved_measured_and_judged(home: Home) -> None:
    assert home.done.returncode in (0, 1), home.done.stderr
    result = json.loads(home.done.stdout)
    assert result == read(home.out)
    assert [t["name"] for t in result["trials"]] in (["int8", "int4 + int8 head", "int4"], ["both grids"])
    for trial in result["trials"]:
        assert trial["status"] == "done"
        assert {c["verdict"] for c in trial["quality"]["checks"] if c["layer"] == "G0"} == {"PASS"}
        assert trial["cpu_s_ratio_vs_B1"]["lo"] > 0
    assert {m["arm"] for m in result["final"]} == {"B0", "B1", "winner"}
    assert result["claim"]["grade"] == "E"
    assert result["claim"]["cpu_s_ratio_vs_B0"]["mean"] > 1


def test_the_exit_code_says_what_the_claim_says(home: Home) -> None:
    assert home.done.returncode == (0 if read(home.out)["claim"]["verdict"] == "PASS" else 1)


def test_the_result_verifies_and_a_changed_figure_is_found(home: Home, tmp_path: Path) -> None:
    assert typed.halfwatt("verify", home.out / "result.json").returncode == 0
    forged = read(home.out)
    forged["claim"]["cpu_s_ratio_vs_B1"]["mean"] *= 1.01
    (tmp_path / "forged.json").write_text(json.dumps(forged))
    done = typed.halfwatt("verify", tmp_path / "forged.json")
    assert done.returncode == 1
    assert "cpu_s_ratio_vs_B1" in done.stdout


def test_the_winner_can_be_moved_and_talked_to(home: Home, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(home.out / "winner", moved)
    done = halfwatt("chat", moved, "--json", stdin="Turn on the fan in the hall\n")
    assert done.returncode == 0, done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["tokens"] > 0
    assert last["cpu_s"] > 0
    assert last["kind"] == "modelled"
    assert 'license: "mit"' in (moved / "README.md").read_text()


def test_killed_at_any_stage_it_goes_on_and_ends_the_same(llama: Home, tmp_path: Path) -> None:
    """Killed as soon as the how manieth outcome of a kind is on disk: in a tuning, a measurement, a judgement, a build.
    Recipes of the list are not screened; where a screen is interrupted is tested in tests/search/test_candidate.py."""
    out = tmp_path / "out"
    for kind, count in (("build", 1), ("tune", 3), ("reference_replies", 1), ("candidate", 1)):
        kill_after(llama, out, kind, count)
        assert not (out / "result.json").exists()
    written = {p.name: p.stat().st_mtime_ns for p in (out / "stages").glob("*.json")}
    done = halfwatt(*again(llama, out))
    assert done.returncode == llama.done.returncode, done.stderr
    assert verdicts(read(out)) == verdicts(read(llama.out))
    assert all((out / "stages" / name).stat().st_mtime_ns == when for name, when in written.items())


def test_a_second_process_is_refused_while_the_first_works(llama: Home, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with subprocess.Popen(command(llama, out), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as first:
        wait_for(out / "stages", "run.json")
        second = typed.halfwatt(*again(llama, out))
        first.kill()
    assert second.returncode == 2
    assert second.stderr.count("\n") == 1
    assert "another process" in second.stderr


def test_a_finished_folder_gives_its_result_again_and_refuses_another_run(llama: Home) -> None:
    before = read(llama.out)["claim"]
    began = time.monotonic()
    assert typed.halfwatt(*again(llama, llama.out), base=SETTINGS).returncode == llama.done.returncode
    assert time.monotonic() - began < 30
    assert read(llama.out)["claim"] == before
    other = typed.halfwatt(*again(llama, llama.out), "--seed", "7", base=SETTINGS)
    assert other.returncode == 2
    assert "another seed" in other.stderr
    longer = typed.halfwatt(*again(llama, llama.out))  # as long as a user's run measures
    assert longer.returncode == 2
    assert "another protocol" in longer.stderr


def verdicts(result: dict[str, Any]) -> list[Any]:
    """All that has to be the same, whatever the clock said."""
    trials = [(t["name"], t["status"], t["quality"]["verdict"]) for t in result["trials"]]
    return [result["claim"]["verdict"], result["final_quality"]["verdict"], *trials]


def again(home: Home, out: Path) -> list[str]:
    return optimizing(home.model, home.chats, out)


def command(home: Home, out: Path) -> list[str]:
    return [sys.executable, "-m", "tests.support.hasty_optimize", *again(home, out)]


def kill_after(home: Home, out: Path, kind: str, count: int) -> None:
    """Start, wait until so many outcomes of a kind of stage are on disk, and kill -9 the harness with its workers."""
    with subprocess.Popen(command(home, out), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as first:
        wait_for(out / "stages", f"{kind}-*.json", count)
        os.kill(first.pid, signal.SIGKILL)


def wait_for(folder: Path, pattern: str, count: int = 1, seconds: float = 120.0) -> None:
    limit = time.monotonic() + seconds
    while len(list(folder.glob(pattern))) < count:
        assert time.monotonic() < limit, f"{pattern} was never written"
        time.sleep(0.02)
