"""The planner's formula against published measurements, each device left out of the fit in turn.

    .venv/bin/python -m benchmarks.planner

Prints the error of a predicted ratio of energies for every device, for bytes alone and for operations alone beside it,
and the coefficients that search/predict.py holds. Then what the planner, given the demo model and the recipes of
docs/ladder.json, says of the CPU time that was measured there. The last line is JSON.

Taken are lean runtimes (vLLM, llama.cpp) on one device with dense models at a known batch. Left out: mixtures of
experts, whose bytes a step nobody published; transformers and bitsandbytes, which wait for Python more than for memory;
runs whose concurrency is only known to be about 8.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from math import exp, log
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize

from benchmarks.ladder import RUNGS, SOURCES, only, post_training
from halfwatt import demo
from halfwatt.models.chat_model import outline
from halfwatt.search import predict
from halfwatt.search.hardware import TABLE, Hardware
from halfwatt.search.predict import Coefficients, Exchange, Shape

# One core of the 4-core EPYC (Zen 5) virtual machine that halfwatt's own figures come from: 36.5 GB/s measured,
# 4 GHz x 64 flops a cycle.
CORE = Hardware("zen5-core", "one core of a Zen 5 EPYC", "cpu", 0.256, 36.5, "measured; cores x GHz x flops a cycle")
DEVICES = {h.key: h for h in (*TABLE, CORE)}


@dataclass(frozen=True, slots=True)
class Published:
    """One figure. ``cost`` is J/token, or CPU-ms/token of one core; only ratios on one device are ever used."""

    device: str
    model: str
    bits: tuple[float, float]  # a weight of the body, of the head
    batch: int
    cost: float
    context: float


# Weights of the body and of the head in millions, blocks, KV bytes a token at 16 bits: from each model's config.json.
# The input embedding is looked up and counts only where it is the head too.
MODELS = {
    "Llama-3.1-8B": (6980, 525, 32, 131072),
    "Qwen3-8B": (6946, 622, 36, 147456),
    "Qwen3-14B": (13212, 778, 40, 163840),
    "Qwen3-32B": (31206, 778, 64, 262144),
    "Gemma-3-12B": (10759, 1007, 48, 393216),
    "Gemma-3-27B": (25600, 1409, 62, 507904),
    "gemma-2-2b": (2024, 590, 26, 106496),
    "Phi-3-mini": (3624, 99, 32, 393216),
    "Mistral-7B": (6980, 131, 32, 131072),
    "Qwen2.5-3B": (2775, 311, 36, 36864),
    "Qwen2.5-0.5B": (358, 136, 24, 12288),
    "Qwen2.5-1.5B": (1310, 233, 28, 28672),
    "Llama-3.2-1B": (973, 263, 16, 32768),
    "S, 30M": (23.6, 3.1, 8, 0),
    "M, 135M": (106.2, 28.3, 30, 0),
    "L, 1.1B": (969, 65.5, 22, 0),
}
BF16, Q4_K_M, Q5_K_M, Q8_0, Q4_0, Q3_K_S = (16, 16), (4.85, 6.56), (5.7, 6.56), (8.5, 8.5), (4.5, 4.5), (3.5, 6.56)


def _batches(device: str, model: str, context: float, costs: dict[int, float]) -> list[Published]:
    return [Published(device, model, BF16, batch, cost, context) for batch, cost in costs.items()]


# ML.ENERGY leaderboard v3 (lm-arena-chat) and v2, vLLM, GPU board; prompts of 120 and 200 tokens, half of a reply.
PUBLISHED = [
    *_batches("h100", "Llama-3.1-8B", 370, {8: 0.455, 16: 0.263, 32: 0.165, 64: 0.119, 128: 0.095, 256: 0.077}),
    *_batches("h100", "Qwen3-8B", 370, {8: 0.444, 64: 0.119, 256: 0.082}),
    *_batches("h100", "Qwen3-14B", 370, {8: 0.706, 64: 0.167, 253: 0.112}),
    *_batches("h100", "Qwen3-32B", 370, {8: 1.726, 16: 0.961, 29: 0.624}),
    *_batches("h100", "Gemma-3-12B", 370, {8: 0.702}),
    *_batches("h100", "Gemma-3-27B", 370, {8: 1.511}),
    *_batches("b200", "Llama-3.1-8B", 370, {8: 0.391, 32: 0.151, 128: 0.098, 1024: 0.055, 2048: 0.047}),
    *_batches("a100-40", "Llama-3.1-8B", 350, {32: 0.211, 128: 0.124, 319: 0.106}),
    *_batches("a100-40", "gemma-2-2b", 350, {32: 0.148}),
    *_batches("a100-40", "Phi-3-mini", 350, {32: 0.165}),
    *_batches("a100-40", "Mistral-7B", 350, {32: 0.233}),
    # dilberx results csv, llama.cpp at batch 1: GPU board and SoC rails
    Published("rtx-3080", "Llama-3.1-8B", Q4_K_M, 1, 2.01, 200),
    Published("rtx-3080", "Qwen2.5-3B", Q4_K_M, 1, 1.13, 200),
    Published("rtx-3080", "Qwen2.5-3B", Q8_0, 1, 1.56, 200),
    Published("m1-pro", "Llama-3.1-8B", Q4_K_M, 1, 0.92, 200),
    Published("m1-pro", "Qwen2.5-3B", Q4_K_M, 1, 0.46, 200),
    Published("m1-pro", "Qwen2.5-3B", Q5_K_M, 1, 0.55, 200),
    Published("m1-pro", "Qwen2.5-3B", Q8_0, 1, 0.57, 200),
    # arXiv 2504.03360 (second hand), llama.cpp, the whole board
    Published("rpi4", "Llama-3.2-1B", BF16, 1, 17.6, 200),
    Published("rpi4", "Llama-3.2-1B", Q3_K_S, 1, 3.75, 200),
    Published("rpi4", "Qwen2.5-0.5B", Q4_K_M, 1, 2.6, 200),
    Published("rpi4", "Qwen2.5-1.5B", Q4_K_M, 1, 7.6, 200),
    # halfwatt, 2026-11-23: llama.cpp at one thread, CPU-ms a token after a prompt of 64; random weights
    Published("zen5-core", "S, 30M", BF16, 1, 1.99, 128),
    Published("zen5-core", "S, 30M", Q8_0, 1, 1.35, 128),
    Published("zen5-core", "S, 30M", Q4_0, 1, 0.86, 128),
    Published("zen5-core", "M, 135M", BF16, 1, 10.13, 128),
    Published("zen5-core", "M, 135M", Q8_0, 1, 7.02, 128),
    Published("zen5-core", "M, 135M", Q4_0, 1, 5.01, 128),
    Published("zen5-core", "L, 1.1B", Q8_0, 1, 42.47, 128),
    Published("zen5-core", "L, 1.1B", Q4_0, 1, 27.74, 128),
]


# --- the fit ----------------------------------------------------------------------------------------------------------


def modelled_cost(row: Published, own: Coefficients) -> float:
    """A decoded token by the planner's formula, in its seconds."""
    body, head, blocks, kv = MODELS[row.model]
    read = (body * row.bits[0] + head * row.bits[1]) * 1e6 / 8
    shape = Shape(blocks, round((body + head) * 1e6), round(read), kv)
    return predict.seconds(shape, Exchange(0, 1, row.context), DEVICES[row.device], own, row.batch)


def fit(rows: Sequence[Published]) -> Coefficients:
    """Least squares of the logarithms, with a scale of its own for each device."""

    def own(at: np.ndarray[Any, Any]) -> Coefficients:
        return Coefficients(exp(at[0]), exp(at[1]), 0.0, len(rows))

    def misfit(at: np.ndarray[Any, Any]) -> float:
        off: dict[str, list[float]] = {}
        for row in rows:
            off.setdefault(row.device, []).append(log(modelled_cost(row, own(at)) / row.cost))
        return float(sum(np.var(logs) * len(logs) for logs in off.values()))

    starts = [(log(a), log(b)) for a in (1, 5) for b in (2e-5, 1e-4)]
    return own(min((minimize(misfit, s, method="Nelder-Mead") for s in starts), key=lambda o: o.fun).x)


def errors(rows: Sequence[Published], cost: Callable[[Published], float]) -> list[float]:
    """How far every ratio of two rows of a device is off, as a factor above 1."""
    pairs = [(a, b) for a, b in combinations(rows, 2) if a.device == b.device]
    return [exp(abs(log(cost(a) / cost(b) * b.cost / a.cost))) for a, b in pairs]


def left_out(rows: Sequence[Published]) -> dict[str, list[float]]:
    """By device: errors with coefficients that were fitted to the other devices."""
    by_device = {}
    for device in dict.fromkeys(row.device for row in rows):
        own = fit([row for row in rows if row.device != device])
        by_device[device] = errors([row for row in rows if row.device == device], partial(modelled_cost, own=own))
    return by_device


def of_kind(cpu: bool) -> list[Published]:
    """The rows of CPUs, or of everything else."""
    return [row for row in PUBLISHED if (DEVICES[row.device].kind == "cpu") == cpu]


def fitted(rows: Sequence[Published], off: Mapping[str, Sequence[float]]) -> Coefficients:
    """As `predict.FITTED` holds them: of all rows, with the error of devices left out (`left_out`)."""
    everyone = [factor for factors in off.values() for factor in factors]
    return replace(fit(rows), error=float(np.quantile(everyone, 0.95)) - 1)


# --- the tables -------------------------------------------------------------------------------------------------------


def main() -> None:
    """Print them."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    coefficients = {}
    bytes_only = partial(modelled_cost, own=Coefficients(0, 0, 0, 0))
    for name, rows in (("gpu", of_kind(cpu=False)), ("cpu", of_kind(cpu=True))):
        by_device = left_out(rows)
        own = fitted(rows, by_device)
        print(f"\n{name}: {len(rows)} measurements; error of a ratio on the device left out: median, 95th percentile")
        for device, off in by_device.items():
            print(f"  {device:<10} {_spread(off)}")
        everyone = [factor for off in by_device.values() for factor in off]
        print(f"  {'all':<10} {_spread(everyone)}")
        print(f"  {'bytes only':<10} {_spread(errors(rows, bytes_only))}")
        print(f"  {'operations':<10} {_spread(errors(rows, lambda row: sum(MODELS[row.model][:2])))}")
        print(f"  {own}")
        coefficients[name] = {
            "compute": own.compute,
            "block_s": own.block_s,
            "error_p95": own.error,
            "n": own.measurements,
        }
    print(json.dumps(coefficients | {"ladder": [_rung(*row) for row in against_ladder()]}))


def _spread(factors: Sequence[float]) -> str:
    middle, high = np.quantile(factors, [0.5, 0.95]) - 1
    return f"{middle:4.0%} {high:5.0%}"


def against_ladder() -> list[tuple[str, str, float, float]]:
    """Traffic, rung, the planner's ratio of CPU time to B1's, and the measured one."""
    rows = json.loads((Path(__file__).parents[1] / "docs" / "ladder.json").read_text())["rungs"]
    model = outline(demo.path())
    pairs = []
    for traffic, sources in SOURCES.items():
        recipes = {r.name: r for r in (*post_training(traffic), *RUNGS[traffic]())}
        measured = {r["name"]: r["cpu_s_ratio_vs_B1"] for r in rows if r["traffic"] == traffic and r["split"] == "tune"}
        dialogues = only(demo.dialogues("tune"), sources).dialogues
        some = [recipe for name, recipe in recipes.items() if measured.get(name)]
        for one in predict.plan(model, some, (CORE,), dialogues).predictions:
            pairs.append((traffic, one.recipe, one.energy_ratio.mean, measured[one.recipe]["mean"]))
    print(f"\n{'docs/ladder.json, CPU time':<45} {'plan':>6} {'measured':>9}")
    for traffic, name, plan, actual in pairs:
        print(f"  {traffic + ': ' + name:<43} {plan:6.2f} {actual:9.2f}")
    print(f"  plan over measured, as a factor: {_spread([exp(abs(log(p / s))) for *_, p, s in pairs])}")
    return pairs


def _rung(traffic: str, name: str, plan: float, actual: float) -> dict[str, Any]:
    return {"traffic": traffic, "name": name, "planned": plan, "measured": actual}


if __name__ == "__main__":
    main()
