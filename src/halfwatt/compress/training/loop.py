"""The one training loop. Everything that learns (distilling, recovering, quantization-aware training) runs through it.

    objective(model, batch) -> nats of every learned position      what to lower, see losses.py
    train(module, objective, rows, settings, ...)                  -> History

Every position counts alike, whichever step it falls into: dialogues of one length share a batch, and if each step took
the mean of its own positions, those of short replies would count for more. One process or several (team.py): each takes
its rows of every step, and the result does not depend on their number. A loss or gradient that is not finite
stops the run before the weights have changed. Where the memory is full a step is made in more passes, of half as many
dialogues each, down to one; the gradients add up to the same. Left out: sharding.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from typing import Any, NoReturn

import torch
from torch import nn

from halfwatt.compress.base import StepContext
from halfwatt.compress.training import checkpoints
from halfwatt.compress.training.batches import Batch, Row, collate, plan
from halfwatt.compress.training.losses import label_nll
from halfwatt.compress.training.team import team
from halfwatt.core.errors import BadInput, EnvironmentFault, HalfwattError, first_line
from halfwatt.core.machine import free_memory_b
from halfwatt.core.settings import Precision
from halfwatt.meters.cost import Cost, CostMeter

_STATE_B = 12  # of a number that is trained, beside itself: its gradient, and AdamW's two moments
_FULL = "teaching this model does not fit the memory"
_BYTES_A_STEP = 10  # float32 passes over the weights: forward, backward, gradient; AdamW reads 4 tensors and writes 3


class TrainingDiverged(HalfwattError):
    """A loss or gradient is not finite. The weights are still those of the last good step, and saved."""

    exit_code = 1


Objective = Callable[[Callable[..., Any], Batch], torch.Tensor]
"""What to lower: (the module given to `train`, prepared; a batch) -> nats of every learned position, [n], with a
gradient."""


def learn_labels(model: Callable[..., Any], batch: Batch) -> torch.Tensor:
    """The objective of learning the human replies."""
    return label_nll(model(batch.ids, batch.reply), batch.labels)


@dataclass(frozen=True, slots=True)
class Group:
    """Parameters that share a learning rate and weight decay."""

    parameters: tuple[nn.Parameter, ...]
    lr_factor: float = 1.0  # of the rate in `TrainingSettings`
    decay: bool = True


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """How to train, in the context's precision: of matrix products, for softmax, losses and weights stay float32.

    lr:            the highest learning rate; see reference values beside each step that trains
    batch_tokens:  of a step over all processes, padding included
    warmup:        share of the steps over which the learning rate rises
    weight_decay:  of AdamW, where horizon is None
    horizon:       passes over the rows that the weights are a mean of; sets the decay
    floor:         the learning rate at the end, as a share of the highest
    betas:         of AdamW
    clip:          the longest gradient that is taken as it is
    """

    lr: float
    epochs: float = 1.0
    batch_tokens: int = 4096
    warmup: float = 0.02
    floor: float = 0.1
    weight_decay: float = 0.1
    horizon: float | None = None
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0

    def decay(self, steps_a_pass: int) -> float:
        """Of AdamW, which forgets a share lr x decay of a weight each step: its weights are a running mean of its
        updates over 1 / (lr x decay) steps. Counted in passes that time suits data of any size (Wang and Aitchison,
        arXiv 2405.13698).

        >>> round(TrainingSettings(1e-3, horizon=2.0).decay(200), 6)
        2.5
        """
        return self.weight_decay if self.horizon is None else 1 / (self.lr * steps_a_pass * self.horizon)


@dataclass(frozen=True, slots=True)
class History:
    """How a run went."""

    steps: int
    losses: tuple[float, ...]  # mean nats a position of every step
    spent: Cost
    finished: bool = True  # False: the budget ended it


def default_groups(module: nn.Module) -> tuple[Group, ...]:
    """Weight decay on matrices, none on norms and biases."""
    free = [p for p in module.parameters() if p.requires_grad]
    groups = (Group(tuple(p for p in free if (p.ndim >= 2) == decay), decay=decay) for decay in (True, False))
    return tuple(group for group in groups if group.parameters)


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
    settings: TrainingSettings,
    context: StepContext | None = None,
    groups: Sequence[Group] | None = None,
) -> History:
    """Train ``module`` in place.

    Args:
        rows: what to learn from; the context's dialogues are not looked at.
        context: where to work and what watches; None = the processor, no checkpoints, no meter.
        groups: parameters with rates of their own; None = `default_groups`. What is in no group is not trained.

    Raises:
        TrainingDiverged: a loss or gradient is not finite; names the step and its dialogues.
        BadInput: a joule budget without a meter, or a checkpoint of another run.
        EnvironmentFault: what is trained does not fit the memory, or not one dialogue at a time.
    """
    context = context or StepContext()
    if context.budget.joules is not None and context.meter is None:
        raise BadInput("a joule budget needs an energy meter", hint="see 'halfwatt doctor', or give minutes or tokens")
    groups = groups or default_groups(module)
    _require_memory([p for group in groups for p in group.parameters], context.device)
    schedule = _Schedule(rows, settings, context.settings.seed)
    with _accelerator(context.device, context.settings.precision) as accelerator:
        try:
            return _Run(module, objective, schedule, groups, context, accelerator).run()
        except (RuntimeError, MemoryError) as error:  # as of the moments, which the first step takes room for
            if not _memory_is_full(error):
                raise
            raise EnvironmentFault(_FULL, got=first_line(error), hint="teach a smaller model") from error


def _require_memory(parameters: Sequence[nn.Parameter], device: str) -> None:
    need_b, free_b = _STATE_B * sum(p.numel() for p in parameters), free_memory_b(device)
    if need_b > free_b:
        got = f"{need_b / 2**30:.1f} GiB for gradients and moments, {free_b / 2**30:.1f} GiB free"
        raise EnvironmentFault(_FULL, got=got, hint="teach a smaller one")


def _memory_is_full(error: BaseException) -> bool:
    """torch has a class for it on some devices and none on others."""
    words = "can't allocate memory", "not enough memory", "bad_alloc", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED"
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(word in str(error) for word in words)


class _Schedule:
    """Which rows each step learns from, and at which rate."""

    def __init__(self, rows: Sequence[Row], settings: TrainingSettings, seed: int) -> None:
        self.rows, self.settings, self.seed = rows, settings, seed
        self.lengths = [len(row.ids) for row in rows]
        self._plan = lru_cache(1)(partial(plan, self.lengths, settings.batch_tokens, seed))
        self.per_epoch = len(self._plan(0))
        self.positions = sum(row.positions for row in rows) / self.per_epoch  # of a step, on the mean
        self.steps = max(1, round(settings.epochs * self.per_epoch))

    def step_rows(self, step: int) -> list[Row]:
        """Over all processes. Epochs differ by a batch or two, by how their rows pack."""
        epoch, at = divmod(step, self.per_epoch)
        batches = self._plan(epoch)
        return [self.rows[i] for i in batches[at % len(batches)]]

    def rate(self, step: int, share_spent: float) -> float:
        done = max((step + 0.5) / self.steps, share_spent)
        return self.settings.lr * learning_rate(done, self.settings.warmup, self.settings.floor)


class _Run:
    """The state of one run."""

    def __init__(
        self,
        module: nn.Module,
        objective: Objective,
        schedule: _Schedule,
        groups: Sequence[Group],
        context: StepContext,
        accelerator: Any,
    ) -> None:
        self.module, self.objective, self.schedule = module, objective, schedule
        self.settings, self.context, self.accelerator = schedule.settings, context, accelerator
        self.team = team(context.device)
        decay = self.settings.decay(schedule.per_epoch)
        slots = [{"params": list(g.parameters), "weight_decay": decay if g.decay else 0.0} for g in groups]
        optimizer = torch.optim.AdamW(slots, lr=self.settings.lr, betas=self.settings.betas, fused=True)
        self.lr_factors = [group.lr_factor for group in groups]
        self.parameters = [p for group in groups for p in group.parameters]
        self.step_b = _BYTES_A_STEP * sum(4 * p.numel() for p in self.parameters)
        self.prepared, self.optimizer = accelerator.prepare(module, optimizer)
        self.step, self.losses, self.spent = 0, list[float](), Cost()
        self.passes = 1  # of a step
        self.cost_meter = CostMeter(context.meter, context.device)

    def run(self) -> History:
        self._resume()
        self.module.train()
        begin_s = report_s = checkpoint_s = time.monotonic()
        begin_tokens = self.spent.tokens
        while self.step < self.schedule.steps and self._share_spent() < 1:
            rows = self.schedule.step_rows(self.step)
            self._update(rows)
            self.step += 1
            lap = self.cost_meter.lap(sum(len(row.ids) for row in rows), self.step_b)
            self.spent += replace(lap, cpu_s=float(self.team.total(torch.tensor(lap.cpu_s, dtype=torch.float64))))
            now_s = time.monotonic()
            if now_s - report_s > 2 and self.accelerator.is_main_process:
                self._report((self.spent.tokens - begin_tokens) / (now_s - begin_s))
                report_s = now_s
            if now_s - checkpoint_s > self.context.checkpoint_s:
                self._checkpoint()
                checkpoint_s = now_s
        self._leave()
        finished = self.step >= self.schedule.steps  # else the budget ended it
        return History(self.step, tuple(self.losses), self.spent, finished)

    def _update(self, rows: Sequence[Row]) -> None:
        rate = self.schedule.rate(self.step, self._share_spent())
        for group, factor in zip(self.optimizer.param_groups, self.lr_factors, strict=True):
            group["lr"] = rate * factor
        loss = self._gradients(rows)
        norm = self.accelerator.clip_grad_norm_(self.parameters, self.settings.clip)
        scaled = self.accelerator.scaler is not None  # fp16: the scaler itself skips a step that overflowed
        if not scaled and not math.isfinite(float(norm)):
            self._stop("gradient")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.losses.append(loss)

    def _gradients(self, rows: Sequence[Row]) -> float:
        """Those of a step, which stay; and its mean loss, in nats a position."""
        own = self.team.share(rows)
        while True:
            size = max(1, math.ceil(len(own) / self.passes))
            try:
                parts = [own[start : start + size] for start in range(0, max(1, len(own)), size)]
                sums = [self._pass(collate(part, of=part if self.passes > 1 else rows)) for part in parts]
                return sum(nats for nats, _ in sums) / max(1.0, sum(positions for _, positions in sums))
            except (RuntimeError, MemoryError) as error:
                if not _memory_is_full(error):
                    raise
            self.optimizer.zero_grad(set_to_none=True)  # here, where what failed is not held any more
            if self.accelerator.num_processes > 1 or size == 1:
                what = f"the memory is full with {size} dialogue{'s' if size > 1 else ''} at a time"
                raise EnvironmentFault(what, hint="teach shorter dialogues (--longest 256), or a smaller model")
            self.passes *= 2
            self.context.settings.progress(f"the memory is full: at most {math.ceil(size / 2)} dialogues a pass")

    def _pass(self, batch: Batch) -> tuple[float, float]:
        """Forward and back. Returns the sum of the loss, nats, and how many positions it is of, over all processes."""
        with self.accelerator.autocast():
            nats = self.objective(self.prepared, batch.to(self.accelerator.device))
        counts = torch.stack([nats.detach().sum(), torch.tensor(float(len(nats)), device=nats.device)])
        total, positions = (float(x) for x in self.accelerator.reduce(counts, "sum"))
        if not math.isfinite(total):
            self._stop("loss")
        # Processes average their gradients; times their number that is the sum, over what is the same for all steps.
        self.accelerator.backward(nats.sum() * (self.accelerator.num_processes / self.schedule.positions))
        return total, positions

    def _stop(self, what: str) -> NoReturn:
        """The weights are still good: keep them, and say what broke."""
        self.optimizer.zero_grad(set_to_none=True)
        self._leave()
        names = [row.name for row in self.schedule.step_rows(self.step)]
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        raise TrainingDiverged(
            f"the {what} of step {self.step + 1} is not finite",
            got="dialogues " + ", ".join(names[:8]) + more,
            hint="lower the learning rate, or look at these dialogues; the weights before this step are kept",
        )

    def _leave(self) -> None:
        """A last checkpoint, and the module as it was given: accelerate has wrapped its forward pass."""
        self._checkpoint()
        self.accelerator.unwrap_model(self.prepared, keep_fp32_wrapper=False)
        self.module.__dict__.pop("forward", None)  # the class's own again
        self.module.eval()

    def _share_spent(self) -> float:
        """How much of the tightest budget is used up; the same for all processes."""
        budget, spent = self.context.budget, self.spent
        limits = (budget.tokens, 60 * (budget.minutes or 0), budget.joules)
        used = (spent.tokens, spent.wall_s, spent.joules or 0.0)
        share = max((u / limit for u, limit in zip(used, limits, strict=True) if limit), default=0.0)
        if self.accelerator.num_processes == 1:
            return share
        return float(self.accelerator.gather(torch.tensor([share], device=self.accelerator.device)).max())

    def _report(self, tokens_per_s: float) -> None:
        recent = self.losses[-20:]
        cost = f"{self.spent.cpu_s:.0f} CPU-s" if self.spent.joules is None else f"{self.spent.joules:.0f} J"
        self.context.settings.progress(
            f"step {self.step}/{self.schedule.steps}, {sum(recent) / len(recent):.4f} nats, "
            f"{tokens_per_s:,.0f} tokens/s, {cost} so far"
        )

    def _identity(self) -> dict[str, Any]:
        """What makes two runs the same run."""
        return {
            "rows": len(self.schedule.rows),
            "tokens": sum(self.schedule.lengths),
            "settings": repr((self.settings, self.schedule.seed, self.context.settings.precision)),
            "parameters": len(self.parameters),
            "numbers": sum(p.numel() for p in self.parameters),
        }

    def _checkpoint(self) -> None:
        folder = self.context.checkpoints
        if folder is None or not self.accelerator.is_main_process:
            return
        counters = {
            "identity": self._identity(),
            "step": self.step,
            "losses": self.losses,
            "spent": asdict(self.spent),
            "scaler": None if self.accelerator.scaler is None else self.accelerator.scaler.state_dict(),
        }
        checkpoints.write(folder, checkpoints.state_tensors(self.module, self.optimizer.optimizer), counters)

    def _resume(self) -> None:
        folder = self.context.checkpoints
        checkpoint = None if folder is None else checkpoints.newest(folder)
        if checkpoint is None:
            return
        tensors, counters = checkpoint
        if counters["identity"] != self._identity():
            raise BadInput(f"{folder} holds the checkpoint of another run", hint="choose another folder, or remove it")
        checkpoints.restore(tensors, self.module, self.optimizer.optimizer)
        if counters["scaler"] and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(counters["scaler"])
        self.step, self.losses, self.spent = counters["step"], counters["losses"], Cost(**counters["spent"])
        self.context.settings.progress(f"going on from step {self.step}")


@contextmanager
def _accelerator(device: str, precision: Precision) -> Iterator[Any]:
    """accelerate's handle on devices and processes. Its precision is global, so it is forgotten afterwards."""
    from accelerate.accelerator import Accelerator
    from accelerate.state import AcceleratorState

    where = torch.device(device)
    if precision == "auto":
        cuda = where.type == "cuda"
        faster = torch.cuda.is_bf16_supported() if cuda else torch.ops.mkldnn._is_mkldnn_bf16_supported()
        precision = "bf16" if faster else "fp16" if cuda else "fp32"  # are its products faster than float32 ones here?
    AcceleratorState._reset_state(reset_partial_state=False)
    try:
        yield Accelerator(cpu=where.type == "cpu", mixed_precision="no" if precision == "fp32" else precision)
    finally:
        AcceleratorState._reset_state(reset_partial_state=False)
