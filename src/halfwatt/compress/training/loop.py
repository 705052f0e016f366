"""The one training loop. Everything that learns (distilling, recovering, quantization-aware training) runs through it.

    objective(model, batch) -> nats of every learned position      what to lower, see losses.py
    train(module, objective, rows, settings, ...)                  -> History

    plan the batches ─ resume ─┐
      forward ─ objective ─ sum over all processes ─ finite? ─ backward ─ clip ─ finite? ─ AdamW ─ cosine
      every few minutes: checkpoint, see checkpoints.py
    until the steps are done or the budget of tokens, minutes or joules is spent

Every position counts alike, whichever step it falls into: dialogues of one length share a batch, and if each step took
the mean of its own positions, those of short replies, and the ends of them, would count for more. One process or
several (``torchrun``): each takes its rows of every step, and the result does not depend on their number. A loss or
gradient that is not finite stops the run before the weights have changed, with the step and the dialogues that did it.
Left out: gradient accumulation, sharding.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from halfwatt.compress.training import checkpoints
from halfwatt.compress.training.batches import Batch, Row, collate, plan
from halfwatt.core.errors import BadInput, HalfwattError
from halfwatt.core.settings import Precision
from halfwatt.core.types import Progress
from halfwatt.meters.base import EnergyMeter
from halfwatt.meters.cost import Cost, CostMeter

_BYTES_A_STEP = 10  # float32 passes over the weights: forward, backward, gradient; AdamW reads 4 tensors and writes 3


class TrainingDiverged(HalfwattError):
    """A loss or gradient is not finite. The weights are still those of the last good step, and saved."""

    exit_code = 1


class Objective(Protocol):
    """What to lower."""

    def __call__(self, model: Callable[..., Any], batch: Batch) -> torch.Tensor:
        """Nats of every learned position, [n], with a gradient. ``model`` is the module given to `train`, prepared."""
        ...


@dataclass(frozen=True, slots=True)
class Group:
    """Parameters that share a learning rate and weight decay."""

    parameters: tuple[nn.Parameter, ...]
    lr_factor: float = 1.0
    """Of the rate in `Settings`."""
    decay: bool = True


@dataclass(frozen=True, slots=True)
class Settings:
    """How to train."""

    lr: float
    """The highest learning rate; see reference values beside each step that trains."""
    epochs: float = 1.0
    batch_tokens: int = 4096
    """Tokens a step over all processes, padding included."""
    warmup: float = 0.02
    """Share of the steps over which the learning rate rises."""
    floor: float = 0.1
    """The learning rate at the end, as a share of the highest."""
    weight_decay: float = 0.1
    clip: float = 1.0
    """The longest gradient that is taken as it is."""
    precision: Precision = "auto"
    """Of matrix products; softmax, losses and weights stay float32. auto: bf16 where the processor computes it."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class TrainingBudget:
    """When to stop before the epochs are over; the learning rate falls along whichever is used up first."""

    tokens: int | None = None
    minutes: float | None = None
    joules: float | None = None
    """Needs a meter that measures."""


@dataclass(frozen=True, slots=True)
class History:
    """How a run went."""

    steps: int
    losses: tuple[float, ...]  # mean nats a position of every step
    spent: Cost
    finished: bool = True  # False: the budget ended it


def default_groups(module: nn.Module) -> tuple[Group, ...]:
    """Weight decay on matrices, none on norms and biases."""
    wanted = [p for p in module.parameters() if p.requires_grad]
    matrices, vectors = tuple(p for p in wanted if p.ndim >= 2), tuple(p for p in wanted if p.ndim < 2)
    return tuple(g for g in (Group(matrices), Group(vectors, decay=False)) if g.parameters)


def computes_bf16(device: torch.device) -> bool:
    """Are bf16 products faster than float32 ones here?"""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def learning_rate(done: float, warmup: float, floor: float) -> float:
    """The share of the highest rate after a share ``done`` of the run: a linear rise, then half a cosine to ``floor``.

    >>> [round(learning_rate(x, 0.1, 0.1), 3) for x in (0.05, 0.1, 0.55, 1.0)]
    [0.5, 1.0, 0.55, 0.1]
    """
    if done < warmup:
        return max(done, 1e-3) / warmup
    along = (done - warmup) / max(1e-9, 1 - warmup)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, along)))


def train(
    module: nn.Module,
    objective: Objective,
    rows: Sequence[Row],
    settings: Settings,
    bench: TrainingEnvironment | None = None,
    groups: Sequence[Group] | None = None,
) -> History:
    """Train ``module`` in place.

    Args:
        rows: what to learn from.
        bench: where to work; None = the processor, no checkpoints, no meter.
        groups: parameters with rates of their own; None = `default_groups`. What is in no group is not trained.

    Raises:
        TrainingDiverged: a loss or gradient is not finite; names the step and its dialogues.
        BadInput: a joule budget without a meter, or a checkpoint of another run.
    """
    bench = bench or TrainingEnvironment()
    if bench.budget.joules is not None and bench.meter is None:
        raise BadInput("a joule budget needs an energy meter", hint="see 'halfwatt doctor', or give minutes or tokens")
    with _accelerator(bench.device, settings.precision) as accelerator:
        return _Run(module, objective, rows, settings, bench, groups or default_groups(module), accelerator).go()


@dataclass(frozen=True, slots=True)
class TrainingEnvironment:
    """Where a run works and what watches it."""

    device: str = "cpu"
    folder: Path | None = None  # of the checkpoints; a run that finds one there goes on from it
    pad_id: int = 0
    budget: TrainingBudget = field(default_factory=TrainingBudget)
    meter: EnergyMeter | None = None
    progress: Progress = lambda _: None
    checkpoint_s: float = 120.0


# --- the run -------------------------------------------------------------------------------------------------------


class _Run:
    """The state of one run."""

    def __init__(  # noqa: PLR0913 - the parts of one run
        self,
        module: nn.Module,
        objective: Objective,
        rows: Sequence[Row],
        settings: Settings,
        bench: TrainingEnvironment,
        groups: Sequence[Group],
        accelerator: Any,
    ) -> None:
        self.module, self.objective, self.rows = module, objective, rows
        self.settings, self.bench, self.accelerator = settings, bench, accelerator
        self.lr_factors = [group.lr_factor for group in groups]
        optimizer = torch.optim.AdamW(
            [{"params": list(g.parameters), "weight_decay": settings.weight_decay if g.decay else 0.0} for g in groups],
            lr=settings.lr,
            betas=(0.9, 0.95),
            fused=True,
        )
        self.trained = [p for group in groups for p in group.parameters]
        self.weights_b = sum(4 * p.numel() for p in self.trained)
        self.prepared, self.optimizer = accelerator.prepare(module, optimizer)
        self.lengths = [len(row.ids) for row in rows]
        self.epoch_plan: tuple[int, list[list[int]]] = (-1, [])
        self.per_epoch = len(self._plan(0))
        self.positions = sum(row.positions for row in rows) / self.per_epoch  # of a step, on the mean
        self.steps = max(1, round(settings.epochs * self.per_epoch))
        self.step, self.losses, self.spent = 0, list[float](), Cost()
        self.laps = CostMeter(bench.meter, bench.device)

    def go(self) -> History:
        self._resume()
        self.module.train()
        saved = said = time.monotonic()
        begun = (saved, self.spent.tokens)
        while self.step < self.steps and self._share_spent() < 1:
            whole = self._chosen()
            self._update(self._batch(whole))
            self.step += 1
            tokens = sum(len(row.ids) for row in whole)
            self.spent += self.laps.lap(tokens, _BYTES_A_STEP * self.weights_b)
            now = time.monotonic()
            if now - said > 2:
                self._say(begun)
                said = now
            if now - saved > self.bench.checkpoint_s:
                self._checkpoint()
                saved = now
        self._leave()
        return History(self.step, tuple(self.losses), self.spent, finished=self.step >= self.steps)

    def _leave(self) -> None:
        """A last checkpoint, and the module as it was given: accelerate has wrapped its forward pass."""
        self._checkpoint()
        self.accelerator.unwrap_model(self.prepared, keep_fp32_wrapper=False)
        self.module.__dict__.pop("forward", None)  # the class's own again
        self.module.eval()

    # --- one step

    def _plan(self, epoch: int) -> list[list[int]]:
        if self.epoch_plan[0] != epoch:
            self.epoch_plan = epoch, plan(self.lengths, self.settings.batch_tokens, self.settings.seed, epoch)
        return self.epoch_plan[1]

    def _chosen(self) -> list[Row]:
        """The rows of the step over all processes. Epochs differ by a batch or two, by how their rows pack."""
        epoch, at = divmod(self.step, self.per_epoch)
        batches = self._plan(epoch)
        return [self.rows[i] for i in batches[at % len(batches)]]

    def _batch(self, whole: Sequence[Row]) -> Batch:
        """This process's rows of the step."""
        mine = whole[self.accelerator.process_index :: self.accelerator.num_processes]
        return collate(mine, self.bench.pad_id, of=whole).to(self.accelerator.device)

    def _update(self, batch: Batch) -> None:
        done = max((self.step + 0.5) / self.steps, self._share_spent())
        rate = self.settings.lr * learning_rate(done, self.settings.warmup, self.settings.floor)
        for group, factor in zip(self.optimizer.param_groups, self.lr_factors, strict=True):
            group["lr"] = rate * factor
        with self.accelerator.autocast():
            nats = self.objective(self.prepared, batch)
        counts = torch.stack([nats.detach().sum(), torch.tensor(float(len(nats)), device=nats.device)])
        total, positions = (float(x) for x in self.accelerator.reduce(counts, "sum"))
        if not math.isfinite(total):
            self._stop("loss")
        # Processes average their gradients; times their number that is the sum, over what is the same for all steps.
        self.accelerator.backward(nats.sum() * (self.accelerator.num_processes / self.positions))
        norm = self.accelerator.clip_grad_norm_(self.trained, self.settings.clip)
        scaled = self.accelerator.scaler is not None  # fp16: the scaler itself skips a step that overflowed
        if not scaled and not math.isfinite(float(norm)):
            self._stop("gradient")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.losses.append(total / max(1.0, positions))

    def _stop(self, what: str) -> None:
        """The weights are still good: keep them, and say what broke."""
        self.optimizer.zero_grad(set_to_none=True)
        self._leave()
        names = [row.name for row in self._chosen()]
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        raise TrainingDiverged(
            f"the {what} of step {self.step + 1} is not finite",
            got="dialogues " + ", ".join(names[:8]) + more,
            hint="lower the learning rate, or look at these dialogues; the weights before this step are kept",
        )

    # --- what it costs

    def _share_spent(self) -> float:
        """How much of the tightest budget is used up; the same for all processes."""
        budget, spent = self.bench.budget, self.spent
        pairs = (
            (budget.tokens, spent.tokens),
            (None if budget.minutes is None else 60 * budget.minutes, spent.wall_s),
            (budget.joules, spent.joules or 0.0),
        )
        share = max((used / limit for limit, used in pairs if limit), default=0.0)
        if self.accelerator.num_processes > 1:
            shares = self.accelerator.gather(torch.tensor([share], device=self.accelerator.device))
            share = float(shares.max())
        return share

    def _say(self, begun: tuple[float, int]) -> None:
        if not self.accelerator.is_main_process:
            return
        pace = (self.spent.tokens - begun[1]) / max(1e-9, time.monotonic() - begun[0])
        recent = self.losses[-20:]
        cost = f"{self.spent.cpu_s:.0f} CPU-s" if self.spent.joules is None else f"{self.spent.joules:.0f} J"
        self.bench.progress(
            f"step {self.step}/{self.steps}, {sum(recent) / len(recent):.4f} nats, {pace:,.0f} tokens/s, {cost} so far"
        )

    # --- checkpoints

    def _identity(self) -> dict[str, Any]:
        """What makes two runs the same run."""
        shapes = [list(p.shape) for p in self.trained]
        return {
            "rows": len(self.rows),
            "tokens": sum(self.lengths),
            "settings": repr(self.settings),
            "parameters": len(shapes),
            "numbers": sum(math.prod(s) for s in shapes),
        }

    def _checkpoint(self) -> None:
        folder = self.bench.folder
        if folder is None or not self.accelerator.is_main_process:
            return
        state = {f"model.{k}": v for k, v in _unshared(self.module).items()}
        for index, slot in self.optimizer.optimizer.state_dict()["state"].items():
            state |= {f"adam.{index}.{k}": torch.as_tensor(v) for k, v in slot.items()}
        counters = {
            "identity": self._identity(),
            "step": self.step,
            "losses": self.losses,
            "spent": {k: getattr(self.spent, k) for k in Cost.__slots__},
            "scaler": None if self.accelerator.scaler is None else self.accelerator.scaler.state_dict(),
        }
        checkpoints.write(folder, state, counters)

    def _resume(self) -> None:
        found = None if self.bench.folder is None else checkpoints.newest(self.bench.folder)
        if found is None:
            return
        state, counters = found
        if counters["identity"] != self._identity():
            raise BadInput(
                f"{self.bench.folder} holds the checkpoint of another run", hint="choose another folder, or remove it"
            )
        with torch.no_grad():
            for name, value in _unshared(self.module).items():
                value.copy_(state[f"model.{name}"])
        slots: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in state.items():
            if name.startswith("adam."):
                _, index, slot = name.split(".")
                slots.setdefault(int(index), {})[slot] = value
        inner = self.optimizer.optimizer
        inner.load_state_dict({"state": slots, "param_groups": inner.state_dict()["param_groups"]})
        if counters["scaler"] and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(counters["scaler"])
        self.step, self.losses = counters["step"], counters["losses"]
        self.spent = Cost(**counters["spent"])
        self.bench.progress(f"going on from step {self.step}")


def _unshared(module: nn.Module) -> dict[str, torch.Tensor]:
    """Every parameter and saved buffer once, by its first name: tied ones share their memory."""
    found: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, value in module.state_dict(keep_vars=True).items():
        if id(value) not in seen:
            seen.add(id(value))
            found[name] = value
    return found


@contextmanager
def _accelerator(device: str, precision: Precision) -> Iterator[Any]:
    """accelerate's handle on devices and processes. Its precision is global, so it is forgotten afterwards."""
    from accelerate.accelerator import Accelerator
    from accelerate.state import AcceleratorState

    where = torch.device(device)
    wanted = precision
    if precision == "auto":
        wanted = "bf16" if computes_bf16(where) else "fp16" if where.type == "cuda" else "fp32"
    AcceleratorState._reset_state(reset_partial_state=False)
    try:
        yield Accelerator(cpu=where.type == "cpu", mixed_precision="no" if wanted == "fp32" else wanted)
    finally:
        AcceleratorState._reset_state(reset_partial_state=False)
