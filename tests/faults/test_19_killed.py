"""kill -9 while a step learns: the same command goes on, and ends with the same loss and the same weights."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support import taught_students as taught
from tests.support import tiny_learner as learner


def counters(work: Path) -> dict[str, Any]:
    """Of the newest whole checkpoint; {} before there is one."""
    try:
        checkpoint = max(work.glob("step-*"), key=lambda path: int(path.name.removeprefix("step-")))
        return dict(json.loads((checkpoint / "counters.json").read_text()))
    except (ValueError, FileNotFoundError):  # none yet, or replaced while we looked
        return {}


def kill_at(step: int, folder: Path, name: str, work: Path) -> None:
    """Start a learner, and kill -9 it once a checkpoint of that many updates is on disk."""
    command = [sys.executable, "-m", "tests.support.tiny_learner", str(folder), name, str(work)]
    with subprocess.Popen(command) as process:
        until = time.monotonic() + 120
        while counters(work).get("step", 0) < step and process.poll() is None and time.monotonic() < until:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, "it ended before it could be killed"


@pytest.mark.parametrize("name", sorted(learner.STEPS))
def test_a_killed_step_goes_on_and_ends_the_same(name: str, tmp_path: Path) -> None:
    folder = taught.folder(tmp_path, "llama", taught.dialogues(), taught.School(steps=10))
    threads = torch.get_num_threads()
    try:
        kill_at(3, folder, name, tmp_path / "killed")
        reached = counters(tmp_path / "killed")["step"]
        resumed = learner.learn(folder, name, tmp_path / "killed")
        whole = learner.learn(folder, name, tmp_path / "whole")
    finally:
        torch.set_num_threads(threads)
    ends = [counters(tmp_path / run) for run in ("killed", "whole")]
    assert 3 <= reached < ends[1]["step"], "it was killed on its way"
    assert ends[0]["losses"] == ends[1]["losses"]
    pairs = zip(resumed.network.parameters(), whole.network.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
