"""The verbs of the steps, as typed: their flags are the step's fields, their faults one line."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from halfwatt.api import single_step
from halfwatt.cli import step_verbs
from halfwatt.compress.base import Step
from halfwatt.compress.quantize.qat import TrainOnGrid
from halfwatt.compress.quantize.quantize import Quantize
from halfwatt.compress.registry import STEPS
from halfwatt.core.errors import BadInput
from halfwatt.core.settings import Margins, RunSettings
from tests.support import taught_students as taught
from tests.support import tiny_models as tiny
from tests.support.command_line import halfwatt


@pytest.mark.parametrize(
    ("name", "steps"), [(n, (STEPS[n],)) for n in ("trim", "prune", "distil")] + [("quantize", (Quantize, TrainOnGrid))]
)
def test_every_field_is_a_flag_with_its_own_words(name: str, steps: tuple[type[Step], ...]) -> None:
    text = " ".join(halfwatt(name, "--help").stdout.replace("│", " ").split())  # however wide the terminal is
    for step in steps:
        for field in dataclasses.fields(step):  # type: ignore[arg-type]
            assert f"--{field.name.replace('_', '-')}" in text
    words = {"trim": "stay as they are", "prune": "Blocks that go", "distil": "both softmaxes"}
    assert words.get(name, "a hundred times smaller than what they scale moves") in text


@pytest.mark.parametrize(
    ("line", "step"),
    [
        ([], Quantize(8)),
        (["--bits", "4", "--head-bits", "8"], Quantize(4, 8)),
        (["--method", "hqq", "--bits", "4"], Quantize(4, scale_search="hqq")),
        (
            ["--bits", "4", "--scale-search", "absmax", "--int8", "a", "--int8", "b"],
            Quantize(4, None, 8, "absmax", int8=("a", "b")),
        ),
        (["--method", "gptq", "--bits", "4", "--sweeps", "0"], Quantize(4, method="gptq", sweeps=0)),
        (["--method", "qat", "--bits", "4", "--start", "rtn", "--lr", "1e-4"], TrainOnGrid(4, start="rtn", lr=1e-4)),
    ],
)
def test_quantize_takes_the_fields_of_the_step_behind_its_method(
    line: list[str], step: Step, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    steps: list[Step] = []
    monkeypatch.setattr(single_step, "quantize_to", lambda _model, _out, step, *_: steps.append(step))
    done = halfwatt("quantize", "m", "-o", tmp_path / "out", "--json", *line)
    assert (done.returncode, done.stderr) == (0, "")
    assert steps == [step]


def test_a_method_refuses_what_it_would_ignore() -> None:
    for method, field in (
        ("rtn", "sweeps"),
        ("gptq", "scale_search"),
        ("hqq", "scale_search"),
        ("qat", "sweeps"),
        ("rtn", "lr"),
    ):
        with pytest.raises(BadInput, match=f"{method} does not take --{field.replace('_', '-')}"):
            step_verbs.on_grid(method, {"bits": 4, field: 1})  # type: ignore[arg-type]


AS_RANDOM_WEIGHTS_ARE = Margins(parity_kl=0.1, parity_top1=0.5)  # by far more sensitive to the runtime's rounding


def test_quantize_goes_on_from_a_checkpoint_and_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, chats = tiny.folder(tmp_path, "llama"), taught.chats(tmp_path, taught.dialogues())
    step, settings = TrainOnGrid(4, epochs=0.5, batch_tokens=1024), RunSettings(margins=AS_RANDOM_WEIGHTS_ARE)

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("halfwatt.search.build.Gguf.write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        single_step.quantize_to(str(model), tmp_path / "int4", step, chats, settings)
    monkeypatch.undo()
    lines: list[str] = []
    single_step.quantize_to(str(model), tmp_path / "int4", step, chats, replace(settings, progress=lines.append))
    assert any("going on from step" in line for line in lines)
    assert {p.name for p in tmp_path.iterdir() if p.is_dir()} == {"int4", model.name}


def test_a_wrong_flag_and_a_wrong_value_are_usage(tmp_path: Path) -> None:
    lines = {"--fnf. Did you mean --ffn?": ["--fnf", "1"], 'unable to convert "half" into float': ["--ffn", "half"]}
    for text, line in lines.items():
        done = halfwatt("prune", "x", "-o", tmp_path / "out", *line)
        assert (done.returncode, text in done.stderr) == (2, True)
    done = halfwatt("prune", "x")
    assert (done.returncode, "Missing --out" in done.stderr) == (2, True)


def test_a_step_writes_a_folder_that_the_next_step_takes(tmp_path: Path) -> None:
    model = tiny.folder(tmp_path, "llama", width=128)
    chats = taught.chats(tmp_path, taught.dialogues()[:20])
    done = halfwatt("prune", model, "-d", chats, "-o", tmp_path / "small", "--ffn", "0.67", "--json")
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert made["parameters"][1] < made["parameters"][0]
    again = halfwatt("distil", tmp_path / "small", "-d", chats, "-o", tmp_path / "taught", "--teacher", model)
    assert again.returncode == 0, again.stderr
    assert "distilled (logits" in again.stdout
    assert "energy not measured" in again.stdout or " J by " in again.stdout  # by what meters the machine has
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".taught")) == []
    refused = halfwatt("prune", model, "-d", chats, "-o", tmp_path / "small")
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1


def test_what_another_run_left_is_not_gone_on_with(tmp_path: Path) -> None:
    """Other flags, another teacher or other chats are another run, whose weights would be taken for this one's."""
    model, chats = tiny.folder(tmp_path, "llama"), taught.chats(tmp_path, taught.dialogues()[:20])
    line: list[str | Path] = ["distil", model, "-d", chats, "--epochs", "0.1", "-o", tmp_path / "out"]
    left = tmp_path / ".out.training" / "0123456789ab"
    left.mkdir(parents=True)
    refused = halfwatt(*line)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "an interrupted run with other settings" in refused.stderr
    assert left.exists()
    left.rmdir()
    assert halfwatt(*line).returncode == 0


@pytest.mark.parametrize("kind", [("labels",), ("logits", "--cached", "8", "--temperature", "1")])
def test_two_processes_teach_what_one_does(kind: tuple[str, ...], tmp_path: Path) -> None:
    """They share the rows and the teacher's questions; the first one writes, and says what both took."""
    model, chats = tiny.folder(tmp_path, "llama"), taught.chats(tmp_path, taught.dialogues()[:20])
    how = ["--epochs", "2", "--precision", "fp32", "--json", "-o"]
    line: list[str | Path] = ["distil", model, "-d", chats, "--kind", *kind, *how]
    alone = halfwatt(*line, tmp_path / "one")
    assert alone.returncode == 0, alone.stderr
    launch = ["torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "halfwatt.cli.main"]
    environ = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "ACCELERATE_USE_CPU": "true"}
    command = list(map(str, (sys.executable, "-m", *launch, *line, tmp_path / "two")))
    both = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=180, check=False)
    assert both.returncode == 0, both.stderr
    one, two = (json.loads(run.stdout) for run in (alone, both))  # two documents would not be JSON
    assert two["lineage"] == one["lineage"]
    assert two["spent"][-1]["tokens"] == one["spent"][-1]["tokens"]
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("one", "two")]
    assert all(torch.allclose(weights[0][name], weights[1][name], atol=1e-3) for name in weights[0])
    assert not any(p.name.startswith((".one", ".two")) for p in tmp_path.iterdir())


def test_training_asks_for_a_device_that_is_there(tmp_path: Path) -> None:
    model, chats = tiny.folder(tmp_path, "llama"), taught.chats(tmp_path, taught.dialogues()[:20])
    if torch.cuda.is_available():
        pytest.skip("this machine has it")
    refused = halfwatt("distil", model, "-d", chats, "-o", tmp_path / "out", "--device", "cuda")
    assert refused.returncode == 3
    assert "there is no device cuda here" in refused.stderr


@pytest.mark.parametrize("flag", [("--precision", "fp32"), ("--device", "cpu")])
def test_what_only_training_uses_is_refused_where_nothing_trains(tmp_path: Path, flag: tuple[str, str]) -> None:
    refused = halfwatt("quantize", "demo", "--method", "gptq", *flag, "-o", tmp_path / "out")
    assert refused.returncode == 2
    assert f"--method gptq does not take {flag[0]}" in refused.stderr


def test_problems_are_named_before_any_work(tmp_path: Path) -> None:
    from halfwatt.api.single_step import transform
    from halfwatt.compress.prune import Prune

    model = tiny.folder(tmp_path, "llama")
    with pytest.raises(BadInput, match="ffn is a share"):
        transform(
            str(model),
            Prune(ffn=2.0),
            tmp_path / "out",
            taught.chats(tmp_path, taught.dialogues()),
            None,
            RunSettings(),
        )
    assert not (tmp_path / "out").exists()
