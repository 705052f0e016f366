"""A process that ends between two files leaves no folder under the final name; a checkpoint that was not finished is
passed over."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import torch

from halfwatt.compress.training import checkpoints
from halfwatt.core.files import new_folder
from halfwatt.models.chat_model import load, write
from tests.support import tiny_models as tiny

BETWEEN = """
import os, signal, sys
from pathlib import Path
from halfwatt.models import chat_model, tokenizer
chat_model.ChatTokenizer.save = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # weights and config are written
chat_model.load(sys.argv[1]).save(sys.argv[2])
"""


def test_weights_without_a_tokenizer_are_no_model(tmp_path: Path, model: Path) -> None:
    out = tmp_path / "out"
    done = subprocess.run([sys.executable, "-c", BETWEEN, model, out], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not out.exists()
    assert list(tmp_path.glob(".out.*.part")), "what it had written"
    load(model).save(out)
    assert load(out).context == load(model).context
    assert not list(tmp_path.glob(".out.*.part")), "and it was swept away"


def test_the_checkpoint_before_is_taken(tmp_path: Path) -> None:
    def state(step: int) -> dict[str, torch.Tensor]:
        return {"model.w": torch.full((2,), float(step))}

    checkpoints.write(tmp_path, state(4), {"step": 4})
    half = tmp_path / ".step-8.host.1.part"
    half.mkdir()
    (half / "state.safetensors").write_bytes(b"half")
    tensors, counters = checkpoints.newest(tmp_path) or ({}, {})
    assert counters == {"step": 4}
    assert tensors["model.w"].equal(state(4)["model.w"])


def test_a_folder_that_is_there_is_whole(tmp_path: Path) -> None:
    with new_folder(tmp_path / "model") as part:
        write(load(tiny.folder(tmp_path)), part)
        assert not (tmp_path / "model").exists()
    assert load(tmp_path / "model")
