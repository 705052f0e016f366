"""The process under test: a real one, with a tiny real model."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from halfwatt.core.errors import EnvironmentFault, ModelError
from halfwatt.core.settings import Access
from halfwatt.dialogues.dialogue import Dialogue
from halfwatt.formats.artifact import read_artifact
from halfwatt.models.sampling import Sampling
from halfwatt.runtimes.base import OperatingPoint, write_operating_point
from halfwatt.runtimes.llamacpp import LlamaCpp
from halfwatt.runtimes.servable import servable
from halfwatt.runtimes.serving_process import ServingProcess, ServingSpec
from tests.support import taught_students as taught
from tests.support import tiny_models as tiny

GREEDY = Sampling(max_new_tokens=12)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def spec(model: Path, tmp_path_factory: pytest.TempPathFactory) -> ServingSpec:
    made = servable(str(model), Access(), tmp_path_factory.mktemp("cache"), "llamacpp")
    return replace(made, at=OperatingPoint(threads=1))


@pytest.fixture(scope="module")
def asked() -> list[Dialogue]:
    return [d.before(1) for d in taught.dialogues()[:4]]


def test_it_answers_as_a_session_in_this_process_does(spec: ServingSpec, asked: list[Dialogue]) -> None:
    sampled = Sampling(temperature=1.0, max_new_tokens=12, seed=5)
    with ServingProcess(spec) as worker, LlamaCpp().open(spec.artifact, spec.at) as session:
        session.reset()
        here = [session.reply([d], s)[0] for d in asked for s in (GREEDY, sampled)]
        there = worker.replies([d for d in asked for _ in range(2)], [GREEDY, sampled] * len(asked))
    assert there == here


def test_only_whole_passes_and_its_own_cpu_time_count(spec: ServingSpec, asked: list[Dialogue]) -> None:
    with ServingProcess(spec) as worker:
        before, began = time.process_time(), time.monotonic()
        done = worker.run(asked, GREEDY, min_s=0.3)
        elapsed, harness = time.monotonic() - began, time.process_time() - before
    start, end = done.usage
    assert done.replies == done.passes * len(asked)
    assert done.passes > 1
    assert 0.3 <= end.wall_s - start.wall_s <= elapsed
    assert 0 < end.cpu_s - start.cpu_s <= 1.2 * elapsed  # one thread
    assert harness < 0.1 * (end.cpu_s - start.cpu_s) + 0.02
    assert end.bytes_b > start.bytes_b
    assert done.tokens_out <= 12 * done.replies


def test_a_fresh_pass_finds_nothing_of_the_one_before(spec: ServingSpec, asked: list[Dialogue]) -> None:
    """One prompt alone would be answered from its own cache in each pass but the first."""
    with ServingProcess(spec) as process:
        kept, fresh = (process.run(asked[:1], GREEDY, min_s=0.05, fresh=fresh) for fresh in (False, True))
    assert kept.passes > 1
    assert fresh.passes > 1
    assert kept.tokens_cached > 0
    assert fresh.tokens_cached == 0
    assert fresh.replies_sha256 == kept.replies_sha256


def test_the_same_prompts_have_the_same_fingerprint(spec: ServingSpec, asked: list[Dialogue]) -> None:
    with ServingProcess(spec) as worker:
        a, b = (worker.run(asked, GREEDY).replies_sha256 for _ in range(2))
        assert a == b
        assert worker.run(asked[:2], GREEDY).replies_sha256 != a


@pytest.mark.parametrize("gone", [False, True], ids=["dying", "gone before it is asked"])
def test_a_worker_that_is_killed_is_an_environment_fault(gone: bool, spec: ServingSpec, asked: list[Dialogue]) -> None:
    with ServingProcess(spec) as worker:
        os.kill(worker.process.pid, signal.SIGKILL)
        if gone:
            worker.process.wait()
        with pytest.raises(EnvironmentFault, match="ended with code -9"):
            worker.run(asked, GREEDY)


def test_a_program_of_another_environment_may_be_the_worker(spec: ServingSpec, asked: list[Dialogue]) -> None:
    """Here it is this one, called by name; its logits come through a file."""
    program = "from halfwatt.runtimes.serving_process import main, open_session; main(lambda spec: open_session(spec))"
    foreign = replace(spec, command=(sys.executable, "-c", program))
    with ServingProcess(spec) as own, ServingProcess(foreign) as other:
        assert own.replies(asked, [GREEDY] * len(asked)) == other.replies(asked, [GREEDY] * len(asked))
        assert (own.logits(taught.dialogues()[0]) == other.logits(taught.dialogues()[0])).all()
    with pytest.raises(EnvironmentFault, match="ended with code 3"):
        ServingProcess(replace(spec, command=(sys.executable, "-c", "raise SystemExit(3)")))


def test_an_error_keeps_its_class_across_the_process_border(spec: ServingSpec, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no model\.gguf"):
        ServingProcess(replace(spec, artifact=replace(spec.artifact, path=tmp_path)))


def test_closed_it_is_gone(spec: ServingSpec) -> None:
    with ServingProcess(spec) as worker:
        pid = worker.process.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_name_becomes_something_that_can_be_served(model: Path, spec: ServingSpec, tmp_path: Path) -> None:
    commonly = servable(str(model), Access(), tmp_path / "cache")
    assert (commonly.artifact.runtime, commonly.at.threads) == ("torch_eager", None)
    write_operating_point(spec.artifact.path, OperatingPoint(threads=1, threads_prefill=2))
    ours = servable(str(spec.artifact.path), Access(), tmp_path / "cache")
    assert ours.at == OperatingPoint(threads=1, threads_prefill=2)
    moved = spec.artifact.path.rename(tmp_path / "moved")
    assert read_artifact(moved).path == moved
    moved.rename(spec.artifact.path)


def test_its_program_imports_nothing_that_another_environment_may_lack(tmp_path: Path) -> None:
    """Environments of other toolkits have torch, transformers, pydantic and jinja2; and what is loaded takes memory."""
    script = (
        "import sys; before = set(sys.modules); import halfwatt.runtimes.serving_process\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(new - set(sys.stdlib_module_names) - {'halfwatt'}))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
