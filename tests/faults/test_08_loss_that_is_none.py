"""A loss that is not finite stops teaching: step and dialogues are told, the last good weights are kept."""

from __future__ import annotations

import math
from pathlib import Path

from safetensors.torch import load_file

from tests.support.command_line import halfwatt
from tests.support.refusals import files


def test_a_rate_that_no_network_bears(tmp_path: Path, model: Path, chats: Path) -> None:
    before = files(model)
    line: list[str | Path] = [
        "distil",
        model,
        "--kind",
        "labels",
        "--epochs",
        "6",
        "--lr",
        "1e18",
        "-d",
        chats,
        "-o",
        tmp_path / "out",
    ]
    done = halfwatt(*line)
    told = [text for text in done.stderr.splitlines() if text.startswith("halfwatt: ")]
    assert done.returncode == 1
    assert len(told) == 1
    assert "is not finite" in told[0]
    assert "dialogues " in told[0]
    assert files(model) == before
    assert not (tmp_path / "out").exists()
    kept = list(tmp_path.glob(".out.training/**/*.safetensors"))
    assert kept, "the checkpoint before that step"
    assert all(math.isfinite(float(t.abs().max())) for t in load_file(kept[-1]).values())
