"""What each lever that learns or rounds is worth on the demo model: several seeds, same tokens, intervals.

    .venv/bin/python -m benchmarks.levers [PART ...] [--traffic mix] [--data DATA] [--seeds 3]

distil    students pruned alike: taught by labels alone, and by labels and the teacher; nats a token on the tune split
integers  KL divergence to the unrounded model: round to nearest, GPTQ, and training on the grid
mixed     int4/int8 by weight against rules of thumb that read the same bytes, rounded to nearest; mixed-gptq: by GPTQ

Steps learn from the training split (from DATA's, where given: docs/demo_model.md), figures are read on the tune split
through transformers; the test split stays sealed. Every finished figure is kept in OUT/TRAFFIC/levers.json, and the
same command goes on. An interval is Student's over the seeds, 95 %. The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.ladder import SOURCES, only, training
from halfwatt import demo
from halfwatt.compress import apply
from halfwatt.compress.base import Step, StepContext
from halfwatt.compress.distil import Distil
from halfwatt.compress.prune import Prune
from halfwatt.compress.quantize.mixed_precision import Mixed, Option, within
from halfwatt.compress.quantize.qat import TrainOnGrid
from halfwatt.compress.quantize.quantize import Method, Quantize
from halfwatt.compress.recipe import Recipe
from halfwatt.compress.training import losses
from halfwatt.compress.training.batches import Batch, Predictor, in_batches
from halfwatt.core import statistics
from halfwatt.core.files import write_atomic
from halfwatt.dialogues.dialogue import Dialogue
from halfwatt.models.chat_model import ChatModel, load

PARTS = ("distil", "integers", "mixed", "mixed-gptq")
STUDENT = Prune(width=0.667, ffn=0.5, kv_heads=2, drop=4)
TRAINING_DIALOGUES = 3000  # dialogues that a seed draws to learn from, at most
GRID_DIALOGUES = 9000  # and to train on the grid
SENSITIVITY_DIALOGUES = 256  # and to see what int4 costs each weight


@dataclass(frozen=True, slots=True)
class Scores:
    """Means over the assistant's tokens of the tune split."""

    nll: float
    kl: float
    top1: float


class Bench:
    """The original, what it says on the tune split, and the figures found so far."""

    def __init__(self, out: Path, pool: Sequence[Dialogue], tune: Sequence[Dialogue]) -> None:
        self.model = load(demo.path())
        self.batches = in_batches(tune, self.model.tokenizer, self.model.context)
        self.pool, self.file = pool, out / "levers.json"
        out.mkdir(parents=True, exist_ok=True)
        self.figures: dict[str, Any] = json.loads(self.file.read_text()) if self.file.exists() else {}

    def context(self, seed: int, name: str, count: int = TRAINING_DIALOGUES) -> StepContext:
        """Dialogues drawn by this seed, and a folder for checkpoints."""
        order = np.random.default_rng(seed).permutation(len(self.pool))[:count]
        dialogues = tuple(self.pool[int(i)] for i in order)
        work = self.file.parent / "training" / name
        return StepContext(
            dialogues, work=work, seed=seed, progress=lambda text: print(f"{name}: {text}", file=sys.stderr)
        )

    def once(self, name: str, make: Callable[[], ChatModel]) -> Scores:
        """The scores of a model, made and read once."""
        if name not in self.figures:
            model = make()
            scores = score(self.model, model, self.batches)
            tokens = sum(s.tokens for s in model.spent)
            self.figures[name] = {"nll": scores.nll, "kl": scores.kl, "top1": scores.top1, "trained_tokens": tokens}
            self._keep()
            print(f"{name:32} nll {scores.nll:.4f}  kl {scores.kl:.5f}  top-1 {scores.top1:.2%}", flush=True)
        row = self.figures[name]
        return Scores(row["nll"], row["kl"], row["top1"])

    def step(self, name: str, steps: Sequence[Step], seed: int = 0, count: int = TRAINING_DIALOGUES) -> Scores:
        """The scores of a recipe."""
        context = self.context(seed, name.replace(" ", "-"), count)
        return self.once(name, lambda: apply.run(self.model, Recipe(name, tuple(steps)), context))

    def options(self, method: Method, seed: int) -> list[Option]:
        """What each weight costs on either grid, seen on this seed's dialogues; measured once."""
        name = f"{method} options {seed}"
        if name not in self.figures:
            options = Mixed(method=method).options(self.model, self.context(seed, "mixed", SENSITIVITY_DIALOGUES))
            self.figures[name] = [[o.name, o.bytes_b, o.nats] for o in options]
            self._keep()
        return [Option(label, tuple(bytes_b), tuple(nats)) for label, bytes_b, nats in self.figures[name]]

    def _keep(self) -> None:
        write_atomic(self.file, json.dumps(self.figures, indent=1).encode())


@torch.no_grad()
def score(original: ChatModel, candidate: ChatModel, batches: Sequence[Batch]) -> Scores:
    """Both models in memory over the same batches."""
    ours, theirs = Predictor(candidate.network).eval(), Predictor(original.network).eval()
    sums = np.zeros(4)
    for batch in batches:
        reference, logits = theirs(batch.ids, batch.reply).float(), ours(batch.ids, batch.reply).float()
        same = (reference.argmax(1) == logits.argmax(1)).float()
        columns = (losses.label_nll(logits, batch.labels), losses.forward_kl(reference, logits), same)
        sums += [*(float(c.sum()) for c in columns), len(logits)]
    return Scores(*(sums[:3] / sums[3]).tolist())


def distil(bench: Bench, seeds: int, epochs: float) -> dict[str, Any]:
    """Labels against labels and teacher: same student, dialogues, order, steps."""
    distillation = Distil(epochs=epochs, lr=2e-3, cached=32, temperature=1.0, label_weight=0.5)
    kinds = {"labels": replace(distillation, kind="labels", cached=0), "teacher": distillation}
    nll = {k: [bench.step(f"distil {k} {s}", (STUDENT, d), s).nll for s in range(seeds)] for k, d in kinds.items()}
    return {kind: _interval(values, "nats/token") for kind, values in nll.items()}


def integers(bench: Bench, seeds: int, epochs: float) -> dict[str, Any]:
    """KL of each method, and the share of round to nearest's KL that it takes away."""
    plain = bench.step("int4 rtn", (Quantize(4),)).kl
    gptq = [bench.step(f"int4 gptq {s}", (Quantize(4, method="gptq"),), s).kl for s in range(seeds)]
    grid = TrainOnGrid(4, epochs=epochs)
    on_grid = [bench.step(f"int4 on the grid {s}", (grid,), s, GRID_DIALOGUES).kl for s in range(seeds)]
    return {
        "rtn": plain,
        "gptq_over_rtn": _interval([kl / plain for kl in gptq], "x"),
        "gap_closed_on_the_grid": _interval([1 - kl / plain for kl in on_grid], "share"),
    }


def mixed(bench: Bench, seeds: int, method: Method) -> list[dict[str, Any]]:
    """Each rule of thumb, and what the allocation makes of as many bytes."""
    by_seed = [bench.options(method, seed) for seed in range(seeds)]
    names = tuple(o.name for o in by_seed[0])
    # Rounding a rule's weights to nearest looks at no dialogues, so one seed stands for all.
    rule_seeds = range(seeds) if method == "gptq" else (0,)
    rows = []
    for rule, int8 in rules(names, bench.model.network.config.num_hidden_layers).items():
        bytes_b = sum(o.bytes_b[o.name in int8] for o in by_seed[0])
        allocations = [within(options, bytes_b) for options in by_seed]
        step = Quantize(4, method=method, int8=int8)
        kl = [bench.step(f"{method} {rule} {s}", (step,), s).kl for s in rule_seeds]
        name = f"{method} as many bytes as {rule}"
        own = [bench.step(f"{name} {s}", (replace(step, int8=c.int8),), s).kl for s, c in enumerate(allocations)]
        ratio = _interval([a / b for a, b in zip(own, kl if len(kl) > 1 else kl * seeds, strict=True)], "x")
        read = [c.bytes_b for c in allocations]
        rows.append({"rule": rule, "bytes_b": bytes_b, "kl": kl, "mixed_bytes_b": read, "mixed_kl": own, "x": ratio})
    return rows


def rules(names: tuple[str, ...], layers: int) -> dict[str, tuple[str, ...]]:
    """Which weights are at int8 by each rule of thumb."""
    return {
        "int8 head": tuple(n for n in names if n == "lm_head.weight"),
        "first and last block": tuple(n for n in names if ".layers.0." in n or f".layers.{layers - 1}." in n),
        "down_proj and v_proj": tuple(n for n in names if "down_proj" in n or "v_proj" in n),
        "attention": tuple(n for n in names if "self_attn" in n),
        "FFN": tuple(n for n in names if ".mlp." in n),
        "every second block": tuple(n for n in names for k in range(0, layers, 2) if f".layers.{k}." in n),
    }


def _interval(values: Sequence[float], unit: str) -> dict[str, float]:
    estimate = statistics.mean(values, unit)
    return {"mean": estimate.mean, "lo": estimate.lo, "hi": estimate.hi, "n": estimate.n}


def main() -> None:
    """Climb and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=PARTS, choices=PARTS)
    parser.add_argument("--traffic", choices=SOURCES, default="mix")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--out", type=Path, default=Path("out/levers"))
    args = parser.parse_args()
    if args.seeds < 2:
        parser.error("--seeds: an interval needs two or more")
    sources = SOURCES[args.traffic]
    pool = only(demo.dialogues("train"), sources) if args.data is None else training(args.data, sources)
    bench = Bench(args.out / args.traffic, pool.dialogues, only(demo.dialogues("tune"), sources).dialogues)
    parts: dict[str, Callable[[], Any]] = {
        "distil": lambda: distil(bench, args.seeds, args.epochs),
        "integers": lambda: integers(bench, args.seeds, args.epochs),
        "mixed": lambda: mixed(bench, args.seeds, "rtn"),
        "mixed-gptq": lambda: mixed(bench, args.seeds, "gptq"),
    }
    print(json.dumps({name: parts[name]() for name in args.parts}))


if __name__ == "__main__":
    main()
