"""The command line's manners: exit codes, one line for every error, nothing half-written."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest

from halfwatt.api import report, verbs
from halfwatt.cli.main import run
from halfwatt.core.settings import Access, Margins, RunSettings
from tests.support import hasty_optimize
from tests.support import taught_students as taught
from tests.support import tiny_models as tiny
from tests.support.command_line import halfwatt


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return taught.chats(tmp_path_factory.mktemp("chats"), taught.dialogues())


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["optimise"], "No such command"),
        (["optimize"], "Missing MODEL"),
        (["optimize", "demo", "--max-loss", "most"], "--max-loss"),
        (["optimize", "demo", "--max-loss", "70%"], "--max-loss"),
        (["optimize", "demo", "--replies-per-hour", "0"], "--replies-per-hour is above 0"),
        (["quantize", "demo", "--bits", "3", "-o", "x"], '"3" for --bits. Choose from: 8, 4'),
        (["quantize", "demo", "--method", "gptq", "--epochs", "3", "-o", "x"], "gptq does not take --epochs"),
        (["optimize", "demo", "--dtype", "int8"], '"int8" for --dtype. Choose from: "auto"'),
        (["optimize", "demo", "--users", "0"], "--users is 1 or more"),
        (["optimize", "demo", "--user", "3"], "Did you mean --users?"),
        (["optimize", "demo", "again"], "Got unexpected again"),
        (["optimize", "demo", "--budget", "soon"], "type --budget 10m"),
        (["verify", "no-such.json"], "no such file"),
        (["measure", "demo", "-d", "no-such.jsonl"], "there is no file no-such.jsonl"),
        (["optimize", "demo", "--recipe", "no-such.toml"], '"no-such.toml" does not exist'),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(arguments: list[str], named: str) -> None:
    done = halfwatt(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("halfwatt: ")
    assert done.stderr.count("\n") == 1
    assert named in done.stderr
    assert done.stdout == ""


def test_a_model_without_dialogues_or_with_too_few_is_refused(model: Path, tmp_path: Path) -> None:
    done = halfwatt("optimize", model, "-o", tmp_path / "out")
    assert (done.returncode, "pass --dialogues FILE" in done.stderr) == (2, True)
    few = tmp_path / "few.jsonl"
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    few.write_text(json.dumps(row))
    done = halfwatt("optimize", model, "-d", few, "-o", tmp_path / "out")
    assert (done.returncode, "give more dialogues" in done.stderr) == (2, True)
    assert not (tmp_path / "out" / "result.json").exists()


def test_a_faulty_dialogue_is_named_by_file_and_line(model: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n{"mess')
    done = halfwatt("measure", model, "-d", bad)
    assert done.returncode == 2
    assert "bad.jsonl:2" in done.stderr


def test_a_few_faulty_dialogues_are_left_out_on_request(tmp_path: Path) -> None:
    row = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
    chats = tmp_path / "chats.jsonl"
    chats.write_text((json.dumps({"messages": row}) + "\n") * 120 + '{"mess')
    refused = halfwatt("plan", "demo", "--hardware", "m2", "-d", chats)
    assert (refused.returncode, "chats.jsonl:121" in refused.stderr) == (2, True)
    assert halfwatt("plan", "demo", "--hardware", "m2", "-d", chats, "--skip-bad").returncode == 0


def test_the_demos_dialogues_can_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    """As `make smollm2` names them."""
    assert run(["plan", "demo", "--hardware", "m2", "-d", "demo"], hasty_optimize.SETTINGS) == 0
    assert "int4 + int8 head" in capsys.readouterr().out


def test_flags_change_what_the_caller_settled_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[RunSettings] = []
    monkeypatch.setattr(verbs, "measure", lambda *_, settings, **__: seen.append(settings))
    monkeypatch.setattr(report, "emit", lambda *_: None)
    line = ["measure", "demo", "--seed", "7", "--skip-bad", "--dtype", "bf16", "--rapl-root", "tree"]
    assert run(line, hasty_optimize.SETTINGS) == 0
    access = Access(device="auto", dtype="bf16")
    expected = replace(hasty_optimize.SETTINGS, seed=7, skip_bad=True, rapl_root="tree", access=access)
    assert replace(seen[0], command=expected.command, progress=expected.progress) == expected


def test_the_version_is_that_of_the_package() -> None:
    assert halfwatt("--version").stdout.strip() == metadata.version("halfwatt")


def test_a_pickled_model_and_one_without_template_are_refused(model: Path, chats: Path, tmp_path: Path) -> None:
    bare = tiny.folder(tmp_path, seed=3, template=None)
    done = halfwatt("measure", bare, "-d", chats)
    assert (done.returncode, "--chat-template FILE" in done.stderr) == (2, True)
    pickled = tiny.folder(tmp_path, seed=4)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    done = halfwatt("measure", pickled, "-d", chats)
    assert (done.returncode, "safetensors" in done.stderr) == (2, True)


def test_quantize_writes_an_artifact_that_is_proved_and_never_overwrites(
    model: Path, chats: Path, tmp_path: Path
) -> None:
    out = tmp_path / "int8"
    base = RunSettings(margins=Margins(parity_kl=0.1, parity_top1=0.5))  # random weights feel the runtime's rounding
    done = halfwatt("quantize", model, "--bits", "8", "-d", chats, "-o", out, "--json", base=base)
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert made["precision"] == "int8"
    assert made["parity"]["tokens"] > 0
    assert 0 < made["size_b"] < (out / "model.gguf").stat().st_size
    again = halfwatt("quantize", model, "--bits", "8", "-d", chats, "-o", out)
    assert (again.returncode, "exists already" in again.stderr) == (2, True)


def test_quantize_leaves_nothing_behind_when_it_fails(chats: Path, tmp_path: Path) -> None:
    broken = tiny.folder(tmp_path, seed=5)
    (broken / "config.json").write_text('{"architectures": ["Mamba2ForCausalLM"], "model_type": "mamba2"}')
    done = halfwatt("quantize", broken, "--bits", "4", "-d", chats, "-o", tmp_path / "made" / "int4")
    assert done.returncode == 2
    assert "LlamaForCausalLM" in done.stderr or "llama" in done.stderr
    assert not (tmp_path / "made" / "int4").exists()


def test_doctor_lists_every_meter_and_what_would_enable_it() -> None:
    done = halfwatt("doctor", "--json")
    assert done.returncode == 0, done.stderr
    meters = json.loads(done.stdout)["meters"]
    assert {"name", "domain", "grade", "covers", "available", "reason"} <= set(meters[0])
    assert [m["grade"] for m in meters if m["name"] == "modelled"] == ["E"]
    assert all(m["reason"] for m in meters if not m["available"])


def test_a_traceback_needs_debug(tmp_path: Path) -> None:
    broken = tmp_path / "result.json"
    broken.write_text("[]")
    plain, debug = halfwatt("verify", broken), halfwatt("verify", broken, "--debug")
    assert plain.returncode == debug.returncode == 2
    assert "Traceback" not in plain.stderr
    assert "Traceback" in debug.stderr


def test_as_a_program_it_tells_what_it_can_do() -> None:
    command = [sys.executable, "-m", "halfwatt.cli.main", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for verb in ("optimize", "measure", "compare", "quantize", "chat", "doctor", "verify"):
        assert verb in done.stdout
