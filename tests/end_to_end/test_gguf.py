"""The whole path from a GGUF file: one that is opened, and one that can only be run."""

from __future__ import annotations

from pathlib import Path

from halfwatt.compress.base import StepContext
from halfwatt.compress.quantize.quantize import Quantize
from halfwatt.formats.gguf import Gguf
from halfwatt.models.chat_model import load
from tests.support import command_line as typed
from tests.support import taught_students as taught
from tests.support.mixture import mixture
from tests.support.whole_runs import halfwatt, optimizing, read

STUDENT = """name = "student"
[[step]]
use = "trim"
[[step]]
use = "student"
layers = 1
width = 64
ffn = 64
kv_heads = 1
[[step]]
use = "distil"
temperature = 1.0
cached = 16
batch_tokens = 1024
[[step]]
use = "quantize"
bits = 8
"""
ROUNDED = """name = "rounded"
[[step]]
use = "quantize"
bits = 4
"""


def test_a_rounded_file_is_opened_and_its_better_form_is_b1(tmp_path: Path) -> None:
    told, out = taught.dialogues()[:20], tmp_path / "out"
    model, chats = taught.folder(tmp_path, "llama", told), taught.chats(tmp_path, told)
    file = Gguf().write(Quantize(4).apply(load(model), StepContext()), tmp_path / "q").path / "model.gguf"
    given = file.rename(tmp_path / "given.gguf")
    (tmp_path / "rounded.toml").write_text(ROUNDED)
    done = halfwatt(*optimizing(given, chats, out), "--recipe", tmp_path / "rounded.toml")
    assert done.returncode in (0, 1), done.stderr
    result = read(out)
    b1, trial = result["baselines"]["B1"], result["trials"][0]
    assert b1["reason"].startswith(("the file as given: its 16-bit", "its 16-bit form: the file"))
    assert f"B1 is {b1['reason']}" in result["events"]
    assert result["baselines"]["B0"]["artifact"]["precision"] == "f32", "as transformers loads what is rounded"
    assert any("keep the integers of the file" in line for line in trial["artifact"]["lineage"])
    assert {c["verdict"] for c in trial["quality"]["checks"] if c["layer"] == "G0"} == {"PASS"}
    assert typed.halfwatt("verify", out / "result.json").returncode == 0
    said = halfwatt("chat", given, "--json", stdin="Turn on the fan in the hall\n")
    assert said.returncode == 0, said.stderr
    torn = tmp_path / "torn.gguf"
    torn.write_bytes(given.read_bytes()[:20_000])
    refused = typed.halfwatt("measure", torn, "-d", chats)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)


def test_what_can_only_be_run_is_b1_and_teaches(tmp_path: Path) -> None:
    told, out = taught.dialogues()[:60], tmp_path / "out"
    original, chats = mixture(tmp_path), taught.chats(tmp_path, told)
    (tmp_path / "student.toml").write_text(STUDENT)
    done = halfwatt(*optimizing(original, chats, out), "--recipe", tmp_path / "student.toml")
    assert done.returncode in (0, 1), done.stderr
    assert "mixture.gguf can only be run" in done.stderr
    result = read(out)
    assert result["baselines"]["B0"] is None
    assert "as given" in result["baselines"]["B1"]["artifact"]["precision"]
    assert [m["arm"] for m in result["final"]] == ["B1", "winner"]
    trial = result["trials"][0]
    assert trial["status"] == "done", trial["reason"]
    assert {c["verdict"] for c in trial["quality"]["checks"] if c["layer"] == "G0"} == {"PASS"}
    assert typed.halfwatt("verify", out / "result.json").returncode == 0
    assert "no B0: transformers does not run the original" in (out / "report.html").read_text()
    refused = typed.halfwatt("quantize", original, "-d", chats, "-o", tmp_path / "q")
    assert refused.returncode == 2
    assert "the original can only be run" in refused.stderr
