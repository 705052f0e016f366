"""The one loop: it learns, resumes to the same weights, stops on NaN, keeps budgets, runs in two processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from halfwatt.compress.base import StepContext, TrainingBudget
from halfwatt.compress.training import checkpoints
from halfwatt.compress.training.batches import Batch, Predictor, Row, plan
from halfwatt.compress.training.loop import (
    Group,
    TrainingDiverged,
    TrainingSettings,
    learn_labels,
    learning_rate,
    train,
)
from halfwatt.core.errors import BadInput, EnvironmentFault
from halfwatt.core.settings import RunSettings
from halfwatt.meters.base import MeterInfo, Reading
from tests.support import tiny_models as tiny

ROOT = Path(__file__).parents[3]
SETTINGS = TrainingSettings(lr=3e-3, epochs=4, batch_tokens=256)
FP32 = StepContext(settings=RunSettings(precision="fp32"))


def network(seed: int = 0) -> Predictor:
    return Predictor(tiny.network("llama", seed=seed))


def example_rows(count: int = 24) -> list[Row]:
    """Sentences that can be learned: each id follows from the one before."""
    return [Row(f"d{i}", tuple((7 * i + k) % 50 + 10 for k in range(12 + i % 9)), (False,) * 4 + (True,) * (8 + i % 9))
            for i in range(count)]  # fmt: skip


def weights(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in module.parameters()])


def test_it_learns() -> None:
    history = train(network(), learn_labels, example_rows(), replace(SETTINGS, epochs=20), FP32)
    assert history.finished
    assert history.steps == len(history.losses)
    assert history.losses[-1] < 0.3 * history.losses[0]


def test_epochs_may_pack_into_more_or_fewer_batches() -> None:
    """Which rows share a batch is drawn anew for each epoch, so their number varies, and the steps go on."""
    lengths = [4 + 13 * i % 90 for i in range(300)]
    rows = [Row(f"d{i}", (*range(10, 10 + n),), (False, *(True,) * (n - 1))) for i, n in enumerate(lengths)]
    counts = [len(plan(lengths, 128, 0, epoch)) for epoch in range(3)]
    assert min(counts) < counts[0], "the case that this test is about"

    def squared(model: Callable[..., Any], batch: Batch) -> torch.Tensor:
        said: torch.Tensor = model(torch.ones(len(batch.labels), 1)).squeeze(1)
        return said**2

    history = train(torch.nn.Linear(1, 1), squared, rows, replace(SETTINGS, epochs=3, batch_tokens=128), FP32)
    assert history.steps == 3 * counts[0]


class Unigram(torch.nn.Module):
    """Says the same of every position."""

    def __init__(self) -> None:
        super().__init__()
        self.said = torch.nn.Parameter(torch.zeros(40))

    def forward(self, ids: torch.Tensor, reply: torch.Tensor) -> torch.Tensor:
        return self.said.expand(int(reply[:, 1:].sum()), -1)


def test_every_position_counts_alike_however_its_batch_is_filled() -> None:
    """Short dialogues share a batch of few positions, long ones have a batch of many to themselves."""
    short = [Row(f"s{i}", (1, *[20] * 4), (False, *[True] * 4)) for i in range(64)]
    long = [Row(f"l{i}", (1, *[30] * 63), (False, *[True] * 63)) for i in range(8)]
    module = Unigram()
    settings = replace(SETTINGS, lr=0.05, epochs=40, batch_tokens=64, clip=100.0)
    train(module, learn_labels, [*short, *long], settings, FP32)
    counted = 64 * 4 / (64 * 4 + 8 * 63)
    assert float(module.said.softmax(0)[20].detach()) == pytest.approx(counted, abs=0.03)


class Cramped:
    """An objective for which no more than so many dialogues at a time fit the memory."""

    def __init__(self, most: int, error: Exception) -> None:
        self.most, self.error, self.sizes = most, error, list[int]()

    def __call__(self, model: Callable[..., Any], batch: Batch) -> torch.Tensor:
        nats = learn_labels(model, batch)
        self.sizes.append(len(batch.ids))
        if len(batch.ids) > self.most:
            raise self.error
        return nats


MPS = RuntimeError("MPS backend out of memory (MPS allocated: 8.90 GB)")
CUBLAS = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
FULL = RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to")


@pytest.mark.parametrize("error", [FULL, torch.OutOfMemoryError("CUDA out of memory."), MemoryError(), MPS, CUBLAS])
def test_where_the_memory_is_full_a_step_is_made_in_parts(error: Exception) -> None:
    """Of the same gradients: it ends with the same weights."""
    told, module, whole = list[str](), network(), network()
    context = replace(FP32, settings=replace(FP32.settings, progress=told.append))
    cramped = Cramped(1, error)
    history = train(module, cramped, example_rows(), SETTINGS, context)
    assert max(cramped.sizes) > 2
    assert cramped.sizes[-1] == 1
    assert any("the memory is full: at most 1 dialogues a pass" in text for text in told)
    plain = train(whole, learn_labels, example_rows(), SETTINGS, FP32)
    assert torch.allclose(weights(module), weights(whole), atol=1e-5)
    assert history.losses == pytest.approx(plain.losses, abs=1e-4)


def test_where_not_one_dialogue_fits_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    module = network()
    before = weights(module).clone()
    with pytest.raises(EnvironmentFault, match=r"full with 1 dialogue at a time.*--longest"):
        train(module, Cramped(0, FULL), example_rows(), SETTINGS, FP32)
    assert torch.equal(weights(module), before)
    with pytest.raises(RuntimeError, match="another fault"):
        train(network(), Cramped(0, RuntimeError("another fault")), example_rows(), SETTINGS, FP32)
    with monkeypatch.context() as moments:
        moments.setattr(torch.optim.AdamW, "step", Mock(side_effect=MPS))
        with pytest.raises(EnvironmentFault, match=r"does not fit the memory \(found: MPS backend"):
            train(network(), learn_labels, example_rows(), SETTINGS, FP32)
    monkeypatch.setattr("halfwatt.compress.training.loop.free_memory_b", lambda _: 1000)
    with pytest.raises(EnvironmentFault, match=r"0.0 GiB free"):
        train(network(), learn_labels, example_rows(), SETTINGS, FP32)


def test_a_horizon_of_some_passes_is_a_decay() -> None:
    """A mean over two passes, whatever number of steps a pass has."""

    def taught(settings: TrainingSettings) -> tuple[int, torch.Tensor]:
        module = network()
        return train(module, learn_labels, example_rows(), settings, FP32).steps, weights(module)

    a_pass, _ = taught(replace(SETTINGS, epochs=1))
    _, by_horizon = taught(replace(SETTINGS, horizon=2.0))
    _, by_decay = taught(replace(SETTINGS, weight_decay=1 / (SETTINGS.lr * a_pass * 2)))
    _, by_default = taught(SETTINGS)
    assert torch.allclose(by_horizon, by_decay, atol=1e-6)
    assert by_horizon.norm() < by_default.norm(), "it forgets more"


def test_only_the_assistants_words_are_learned() -> None:
    """What the user said last is read by nobody and learned by nobody: it may be anything."""
    ended = [replace(r, ids=(*r.ids, 70, 71), reply=(*r.reply, False, False)) for r in example_rows()]
    otherwise = [replace(r, ids=(*r.ids, 80, 90), reply=(*r.reply, False, False)) for r in example_rows()]
    a, b = network(), network()
    train(a, learn_labels, ended, SETTINGS, FP32)
    train(b, learn_labels, otherwise, SETTINGS, FP32)
    used = [n for n, _ in a.named_parameters() if "embed" not in n]
    assert all(torch.equal(a.get_parameter(n), b.get_parameter(n)) for n in used)


def test_stopped_and_resumed_it_ends_with_the_same_weights(tmp_path: Path) -> None:
    straight, broken = network(), network()
    whole = train(straight, learn_labels, example_rows(), SETTINGS, FP32)
    stops = iter(range(10_000))

    class Killed(Exception):
        pass

    def killed_at_seven(model: Callable[..., Any], batch: Batch) -> torch.Tensor:
        if next(stops) == 7:
            raise Killed
        return learn_labels(model, batch)

    with pytest.raises(Killed):
        train(broken, killed_at_seven, example_rows(), SETTINGS, replace(FP32, checkpoints=tmp_path, checkpoint_s=0.0))
    again = network(seed=5)  # whatever it held before
    resumed = train(
        again, learn_labels, example_rows(), SETTINGS, replace(FP32, checkpoints=tmp_path, checkpoint_s=0.0)
    )
    assert resumed.steps == whole.steps
    assert resumed.losses == pytest.approx(whole.losses, abs=1e-6)
    assert torch.equal(weights(again), weights(straight))


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    first = network()
    train(first, learn_labels, example_rows(), SETTINGS, replace(FP32, checkpoints=tmp_path))

    def never(model: Callable[..., Any], batch: Batch) -> torch.Tensor:
        raise AssertionError("nothing is left to do")

    second = network(seed=3)
    train(second, never, example_rows(), SETTINGS, replace(FP32, checkpoints=tmp_path))
    assert torch.equal(weights(first), weights(second))


def test_what_a_killed_process_left_behind_is_passed_over(tmp_path: Path) -> None:
    train(network(), learn_labels, example_rows(), SETTINGS, replace(FP32, checkpoints=tmp_path))
    (whole,) = tmp_path.glob("step-*")
    for name in (".step-999.host.1.part", "step-1"):  # begun and not finished; not wholly removed
        (tmp_path / name).mkdir()
        (tmp_path / name / "state.safetensors").write_bytes(b"half")
    newest = checkpoints.newest(tmp_path)
    assert newest is not None
    assert f"step-{newest[1]['step']}" == whole.name


def test_another_runs_checkpoint_is_refused(tmp_path: Path) -> None:
    train(network(), learn_labels, example_rows(), SETTINGS, replace(FP32, checkpoints=tmp_path))
    with pytest.raises(BadInput, match="another run"):
        train(network(), learn_labels, example_rows(), replace(SETTINGS, lr=1e-3), replace(FP32, checkpoints=tmp_path))


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_nan_stops_with_step_and_dialogues_and_keeps_the_last_good_weights(where: str, tmp_path: Path) -> None:
    calls = iter(range(10_000))
    good: list[torch.Tensor] = []
    module = network()

    def poisoned(model: Callable[..., Any], batch: Batch) -> torch.Tensor:
        good.append(weights(module))
        nats = learn_labels(model, batch)
        if next(calls) < 5:
            return nats
        return nats * float("nan") if where == "loss" else nats + (nats - nats.detach()).abs().sqrt().sum()

    with pytest.raises(TrainingDiverged, match=f"the {where} of step 6 is not finite .*d\\d+") as stopped:
        train(module, poisoned, example_rows(), SETTINGS, replace(FP32, checkpoints=tmp_path))
    assert stopped.value.exit_code == 1
    assert torch.equal(weights(module), good[-1])
    saved = checkpoints.newest(tmp_path)
    assert saved is not None
    assert all(torch.isfinite(v).all() for v in saved[0].values())


def test_a_budget_of_tokens_ends_it() -> None:
    history = train(
        network(),
        learn_labels,
        example_rows(),
        replace(SETTINGS, epochs=100),
        replace(FP32, budget=TrainingBudget(tokens=2000)),
    )
    assert not history.finished
    assert 2000 <= history.spent.tokens < 2000 + 256


class Wattmeter:
    """One joule a look."""

    info = MeterInfo("watt", "cpu", "measured", "B", "all", "nothing", 0.001, 0.001, 0.0)

    def __init__(self) -> None:
        self.looks = 0

    def read(self) -> Reading:
        self.looks += 1
        return Reading(float(self.looks), float(self.looks))

    def close(self) -> None:
        pass


def test_joules_are_counted_and_end_it() -> None:
    history = train(
        network(),
        learn_labels,
        example_rows(),
        replace(SETTINGS, epochs=100),
        replace(FP32, meter=Wattmeter(), budget=TrainingBudget(joules=6.5)),
    )
    assert history.steps == 7
    assert history.spent.joules == 7.0
    assert history.spent.meter == "watt"


def test_without_a_meter_there_are_no_joules_and_no_joule_budget() -> None:
    history = train(network(), learn_labels, example_rows(), SETTINGS, FP32)
    assert history.spent.joules is None
    assert history.spent.cpu_s > 0
    assert history.spent.bytes_b > 0
    with pytest.raises(BadInput, match="needs an energy meter"):
        train(network(), learn_labels, example_rows(), SETTINGS, replace(FP32, budget=TrainingBudget(joules=5.0)))


def test_a_group_of_rate_zero_stays_and_what_is_in_no_group_stays() -> None:
    module = network()
    embedding: Any = module.network.get_input_embeddings().weight
    norms = [p for n, p in module.named_parameters() if "norm" in n]
    others = [p for n, p in module.named_parameters() if "norm" not in n and p is not embedding]
    before = [p.detach().clone() for p in (embedding, *norms)]
    train(
        module,
        learn_labels,
        example_rows(),
        SETTINGS,
        FP32,
        groups=[Group(tuple(others)), Group(tuple(norms), lr_factor=0.0, decay=False)],
    )
    assert all(torch.equal(a, b) for a, b in zip(before, (embedding, *norms), strict=True))


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_the_module_is_given_back_as_it_came(precision: Any) -> None:
    module = network()
    train(module, learn_labels, example_rows(), SETTINGS, StepContext(settings=RunSettings(precision=precision)))
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    assert not module.training
    assert "forward" not in vars(module)


def test_the_learning_rate_rises_and_falls_along_a_cosine() -> None:
    assert learning_rate(0.05, 0.1, 0.1) == pytest.approx(0.5)
    assert learning_rate(0.1, 0.1, 0.1) == 1
    assert learning_rate(1.0, 0.1, 0.1) == pytest.approx(0.1)
    assert learning_rate(0.5, 0.0, 0.0) == pytest.approx(0.5)


TWO = """
import sys, torch
sys.path.insert(0, {root!r})
from tests.compress.training.test_loop import FP32, SETTINGS, example_rows, network, weights
from halfwatt.compress.training.loop import learn_labels, train
torch.set_num_threads(1)
module = network()
history = train(module, learn_labels, example_rows(), SETTINGS, FP32)
import torch.distributed as dist
rank = dist.get_rank() if dist.is_initialized() else 0
if rank == 0:
    torch.save({{"weights": weights(module), "losses": history.losses}}, {out!r})
if dist.is_initialized():
    dist.barrier(); dist.destroy_process_group()
sys.stdout.flush()
import os; os._exit(0)
"""


def test_two_processes_end_where_one_does(tmp_path: Path) -> None:
    script, out = tmp_path / "two.py", tmp_path / "two.pt"
    script.write_text(TWO.format(root=str(ROOT), out=str(out)))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    environ = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "ACCELERATE_USE_CPU": "true"}
    subprocess.run(launch, env=environ, capture_output=True, text=True, timeout=180, check=False)
    assert out.exists()  # the exit code of a torn-down process group says nothing
    two = torch.load(out, weights_only=True)
    one = network()
    history = train(one, learn_labels, example_rows(), SETTINGS, FP32)
    assert list(two["losses"]) == pytest.approx(list(history.losses), abs=1e-4)
    assert torch.allclose(two["weights"], weights(one), atol=1e-4)
