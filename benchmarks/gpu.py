"""The whole chain on a GPU, trained in bf16 and in fp16; what a reply costs there, in joules of the board's counter.

    python -m benchmarks.gpu --data DATA --out OUT [--device cuda] [--epochs 4] [--blocks 3] [--batch 32]

DATA is the folder that the demo model was trained from (docs/demo_model.md). For each precision the narrow ladder's
chain is trained: trim, prune, distil, train on the grid. Then the original and the two students answer the tune split's
dialogues in one interleaved run, in transformers. No other work may be on the board. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.ladder import SOURCES, narrow, only, plain, say, training
from halfwatt import accounting, demo, losses, pipeline
from halfwatt.batches import Predictor, in_batches
from halfwatt.chat_model import ChatModel, load
from halfwatt.claims import energy_ratio
from halfwatt.dialogue import Dialogue
from halfwatt.pipeline import Speech
from halfwatt.records import OperatingPoint
from halfwatt.runtimes.torch_eager import TorchEager
from halfwatt.steps.base import StepContext
from halfwatt.steps.distil import Distil
from halfwatt.training import Precision
from halfwatt.worker import Spec
from halfwatt.workload import Arm, Instruments, Plan, Run, instruments, measure

CHAIN = "3 blocks of 256, FFN 256, int4 QAD"
PRECISIONS: tuple[Precision, ...] = ("bf16", "fp16")


def main() -> None:
    """Train, score, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--epochs", type=float, default=4)
    parser.add_argument("--blocks", type=int, default=3, help="of the measuring run")
    parser.add_argument("--batch", type=int, default=32, help="dialogues that are answered together")
    given = parser.parse_args()
    model = load(demo.path())
    learned = training(given.data, SOURCES["narrow"]).dialogues
    tune = only(demo.dialogues("tune"), SOURCES["narrow"])
    with closing(instruments(given.device)) as tools:
        made = students(model, learned, given, tools)
        everyone = {"original": model, **{f"student, {precision}": own for precision, own in made.items()}}
        found: dict[str, Any] = {
            "machine": torch.cuda.get_device_name(given.device) if given.device.startswith("cuda") else given.device,
            "meter": tools.info and {"name": tools.info.name, "kind": tools.info.kind, "domain": tools.info.domain},
            "trained": {name: trained(own) for name, own in everyone.items()},
            "nats_a_reply": {name: likelihood(own, tune.dialogues, given.device) for name, own in everyone.items()},
        }
        say(json.dumps(found))
        arms = [
            arm("original, bf16", model, given, "bf16"),
            *(arm(f"student, {precision}", own, given, precision) for precision, own in made.items()),
        ]
        seen = pipeline.traffic(tune, Speech.by(model))
        plan = Plan(min_blocks=given.blocks, max_blocks=given.blocks, prefill=False)
        run = measure(arms, seen.dialogues, seen.greedy, plan, tools, say)
        found["replies"] = [measured(a.name, arms[0].name, run) for a in arms]
    print(json.dumps(found))


def students(
    model: ChatModel, learned: Sequence[Dialogue], given: argparse.Namespace, tools: Instruments
) -> dict[Precision, ChatModel]:
    """The chain of the narrow ladder's recipe `CHAIN`, cut once and trained in each precision."""
    trim, prune, distil, grid = next(recipe.steps for recipe in narrow() if recipe.name == CHAIN)
    assert isinstance(distil, Distil)
    context = StepContext(tuple(learned), device=given.device, meter=tools.primary, progress=say)
    trimmed = pipeline.apply(trim, model, context)
    pruned = pipeline.apply(prune, trimmed, context)
    taught = replace(distil, epochs=given.epochs)
    found: dict[Precision, ChatModel] = {}
    for precision in PRECISIONS:
        here = replace(context, original=trimmed, precision=precision)
        found[precision] = pipeline.apply(grid, pipeline.apply(taught, pruned, here), here)
        say(f"{precision}: {found[precision].spent}")
    return found


def trained(made: ChatModel) -> dict[str, Any]:
    """What its trainings took, and how it was made."""
    rows = [{"tokens": s.tokens, "wall_s": s.wall_s, "joules": s.joules, "meter": s.meter} for s in made.spent]
    return {"spent": rows, "lineage": made.lineage}


@torch.no_grad()
def likelihood(made: ChatModel, dialogues: Sequence[Dialogue], device: str) -> float:
    """Mean negative log-likelihood of a human reply: of its text, so that any vocabulary may tell it."""
    network: Any = made.network.to(device)  # type: ignore[arg-type]
    predictor, total, replies = Predictor(network).eval(), 0.0, 0
    for batch in in_batches(dialogues, made.tokenizer, made.context):
        here = batch.to(torch.device(device))
        total += float(losses.label_nll(predictor(here.ids, here.reply), here.labels).sum())
        replies += sum(int(label) in made.tokenizer.eos_ids for label in batch.labels)
    network.to("cpu")
    return total / replies


def arm(name: str, made: ChatModel, given: argparse.Namespace, dtype: str) -> Arm:
    """Served by transformers on the device."""
    folder = given.out / "served" / name.replace(", ", "-")
    artifact = TorchEager(given.device, dtype).export(replace(made, grid={}), folder)
    return Arm(name, Spec(artifact, OperatingPoint(batch=given.batch, reuse_prefix=False), given.device, dtype))


def measured(name: str, base: str, run: Run) -> dict[str, Any]:
    """Joules a reply, and the base's over it."""
    own = accounting.measurement(name, run.windows, run.meter)
    row: dict[str, Any] = {"name": name, "kind": own.kind, "j_per_reply": plain(own.j_per_reply)}
    row["s_per_reply"] = plain(own.s_per_reply)
    if name != base:
        row["energy_ratio"] = plain(energy_ratio(base, name, run))
    return row


if __name__ == "__main__":
    main()
