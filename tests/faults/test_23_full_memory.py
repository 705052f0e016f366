"""A step of teaching that the memory does not hold is made in halves, down to one dialogue; then one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from halfwatt.compress.training.batches import Predictor
from tests.support.command_line import halfwatt
from tests.support.refusals import refused

FULL = "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes."


def cramped(most: int) -> Callable[..., Any]:
    """A network that takes no more than so many dialogues at a time."""
    real = Predictor.forward

    def forward(self: Predictor, ids: torch.Tensor, reply: torch.Tensor) -> torch.Tensor:
        if len(ids) > most:
            raise RuntimeError(FULL)
        return real(self, ids, reply)

    return forward


def test_halves_and_then_one_line(tmp_path: Path, model: Path, chats: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line: list[str | Path] = ["distil", model, "--kind", "labels", "-d", chats]
    monkeypatch.setattr(Predictor, "forward", cramped(2))
    done = halfwatt(*line, "-o", tmp_path / "taught")
    assert done.returncode == 0, done.stderr
    assert "the memory is full: at most" in done.stderr
    assert (tmp_path / "taught" / "model.safetensors").exists()
    monkeypatch.setattr(Predictor, "forward", cramped(0))
    says = ("the memory is full with 1 dialogue at a time", "--longest")
    refused(*line, "-o", tmp_path / "out", says=says, within=tmp_path, code=3)


def test_what_can_never_fit_is_told_before_it_starts(
    tmp_path: Path, model: Path, chats: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("halfwatt.compress.training.loop.free_memory_b", lambda _: 1 << 10)
    line: list[str | Path] = ["distil", model, "--kind", "labels", "-d", chats, "-o", tmp_path / "out"]
    refused(*line, says=("does not fit the memory", "GiB free"), within=tmp_path, code=3)
