"""Candidates made in processes of their own: the same artifact, its own errors, and nobody left behind."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from halfwatt.compress.base import Step, StepContext
from halfwatt.compress.distil import Distil
from halfwatt.compress.prune import Prune
from halfwatt.compress.quantize.quantize import Quantize
from halfwatt.compress.recipe import Recipe, to_toml
from halfwatt.core.child_process import ChildDied
from halfwatt.core.errors import BadInput, EnvironmentFault
from halfwatt.core.settings import Access
from halfwatt.models.chat_model import load
from halfwatt.search import build_process
from halfwatt.search.build import build_artifact
from halfwatt.search.build_process import BuildRequest
from tests.support import taught_students as taught
from tests.support import tiny_models as tiny

DIALOGUES = tuple(taught.dialogues()[:12])
PROOF = DIALOGUES[:4]
CUT = Recipe("cut", (Prune(drop=1), Quantize(8)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.folder(tmp_path_factory.mktemp("model"))


def order(folder: Path, out: Path, *steps: Step) -> BuildRequest:
    chain = to_toml(Recipe("cut", steps or CUT.steps))
    return BuildRequest(str(folder), Access(), load(str(folder)).sha256, chain, PROOF, DIALOGUES, out, 0)


def test_it_builds_what_this_process_would_have_built(folder: Path, tmp_path: Path) -> None:
    progress: list[str] = []
    artifact = build_process.build_in_process(order(folder, tmp_path / "a"), progress.append)
    assert any("dropped block" in line for line in progress)
    context = StepContext(DIALOGUES, cache=tmp_path / "b" / "training")
    here = build_artifact(load(str(folder)), CUT, PROOF, tmp_path / "b" / "artifacts", context)
    assert artifact.path.name == here.path.name
    assert replace(artifact, path=here.path) == here
    assert artifact.parity is not None
    assert build_process.build_in_process(order(folder, tmp_path / "a"), progress.append) == artifact, "built once"


def test_its_errors_keep_their_class(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="pruning needs dialogues"):
        build_process.build_in_process(replace(order(folder, tmp_path), learned_from=()), print)
    with pytest.raises(EnvironmentFault, match="has changed since the search began"):
        build_process.build_in_process(replace(order(folder, tmp_path), sha256="another"), print)


def test_one_that_dies_is_told_from_one_that_refuses(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = order(folder, tmp_path)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ChildDied, match="ended with code 1"):
        build_process.build_in_process(request, print)


def test_it_goes_when_the_search_goes(folder: Path, tmp_path: Path) -> None:
    request = order(folder, tmp_path, Distil(epochs=1e6), Quantize(8))
    command = [sys.executable, "-m", "halfwatt.search.build_process"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(TypeAdapter(BuildRequest).dump_json(request).decode() + "\n")
        process.stdin.flush()
        assert "doing" in process.stdout.readline()
        process.stdin.close()
        assert process.wait(timeout=20) == 1
