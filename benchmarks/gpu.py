"""Joules of a GPU's own counter: what the whole chain takes there in bf16 and in fp16, and what a reply takes.

    python -m benchmarks.gpu train --data DATA --out OUT [--device cuda] [--epochs 4]
    python -m benchmarks.gpu reply --out OUT [STUDENT ...] [--device cuda] [--seconds 240] [--batch 1 32]

DATA is the folder that the demo model was trained from (docs/demo_model.md). ``train`` runs the narrow ladder's chain
in each precision: trim, prune, distil, train on the grid. ``reply`` lets the demo model and students for its whole
traffic, by default those that come with it, answer the tune split's dialogues in one interleaved run, in transformers,
bf16, each with one dialogue at a time and with many. No other work may be on the board. The last line is JSON.
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
from halfwatt import demo
from halfwatt.compress.apply import apply_step
from halfwatt.compress.base import StepContext
from halfwatt.compress.distil import Distil
from halfwatt.compress.training import losses
from halfwatt.compress.training.batches import Predictor, in_batches
from halfwatt.core.settings import Access, MeasurePlan, Precision, RequestSettings, RunSettings
from halfwatt.dialogues.dialogue import Dialogue
from halfwatt.evaluate import energy_analysis, requests
from halfwatt.evaluate.energy_protocol import Arm, Run, measure
from halfwatt.evaluate.requests import ChatFormat
from halfwatt.formats.artifact import Artifact
from halfwatt.formats.transformers_folder import TransformersFolder
from halfwatt.meters.discover import Instruments, instruments
from halfwatt.models.chat_model import ChatModel, load
from halfwatt.runtimes.base import OperatingPoint
from halfwatt.runtimes.serving_process import ServingSpec

CHAIN = "3 blocks of 256, FFN 256, int4 QAD"
PRECISIONS: tuple[Precision, ...] = ("bf16", "fp16")


def main() -> None:
    """Train, or measure replies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("train", "reply"))
    parser.add_argument("students", nargs="*", type=Path, default=list(demo.students()), help="for reply")
    parser.add_argument("--data", type=Path, help="for train")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--epochs", type=float, default=4, help="for train")
    parser.add_argument("--seconds", type=float, default=240, help="for reply: of all blocks, unless three take longer")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 32], help="for reply: dialogues answered together")
    args = parser.parse_args()
    if args.command == "train" and args.data is None:
        parser.error("--data is needed: the folder that the demo model was trained from")
    with closing(instruments(args.device)) as tools:
        report = chain(args, tools) if args.command == "train" else replies(args, tools)
        report["machine"] = torch.cuda.get_device_name(args.device) if args.device.startswith("cuda") else args.device
        report["meter"] = tools.info and {"name": tools.info.name, "kind": tools.info.kind, "domain": tools.info.domain}
    print(json.dumps(report))


def chain(args: argparse.Namespace, tools: Instruments) -> dict[str, Any]:
    """What training took in each precision, and how well what came of it tells the human replies."""
    model = load(demo.path())
    tune = only(demo.dialogues("tune"), SOURCES["narrow"]).dialogues
    taught = students(model, training(args.data, SOURCES["narrow"]).dialogues, args, tools)
    everyone = [("original", model), *taught.items()]
    return {
        "trained": {name: training_record(own) for name, own in taught.items()},
        "nats_a_reply": {name: likelihood(own, tune, args.device) for name, own in everyone},
    }


def replies(args: argparse.Namespace, tools: Instruments) -> dict[str, Any]:
    """What a reply takes, by model and by how many dialogues are answered together."""
    models = {"original": load(demo.path()), **{folder.name: load(folder) for folder in args.students}}
    artifacts = {name: TransformersFolder("bf16").write(m, args.out / "served" / name) for name, m in models.items()}
    arms = [arm(name, artifact, batch, args.device) for batch in args.batch for name, artifact in artifacts.items()]
    workload = requests.make_workload(
        demo.dialogues("tune"), ChatFormat.of_model(models["original"]), RequestSettings()
    )
    plan = MeasurePlan(min_blocks=3, limit_s=args.seconds, prefill=False)
    run = measure(arms, workload, plan, tools, say)
    bases = {each.name: f"original, {each.spec.at.batch} at once" for each in arms}
    return {"replies": [reply_row(name, base, run) for name, base in bases.items()]}


def students(
    model: ChatModel, dialogues: Sequence[Dialogue], args: argparse.Namespace, tools: Instruments
) -> dict[Precision, ChatModel]:
    """The chain of the narrow ladder's recipe `CHAIN`, cut once and trained in each precision."""
    trim, prune, distil, grid = next(recipe.steps for recipe in narrow() if recipe.name == CHAIN)
    assert isinstance(distil, Distil)
    settings = RunSettings(progress=say)
    context = StepContext(tuple(dialogues), device=args.device, meter=tools.primary, settings=settings)
    trimmed = apply_step(trim, model, context)
    pruned = apply_step(prune, trimmed, context)
    recovery = replace(distil, epochs=args.epochs)
    taught: dict[Precision, ChatModel] = {}
    for precision in PRECISIONS:
        here = replace(context, original=trimmed, settings=replace(settings, precision=precision))
        taught[precision] = apply_step(grid, apply_step(recovery, pruned, here), here)
        say(f"{precision}: {taught[precision].spent}")
    return taught


def training_record(model: ChatModel) -> dict[str, Any]:
    """What its trainings took, and how it was made."""
    rows = [{"tokens": s.tokens, "wall_s": s.wall_s, "joules": s.joules, "meter": s.meter} for s in model.spent]
    return {"spent": rows, "lineage": model.lineage}


@torch.no_grad()
def likelihood(model: ChatModel, dialogues: Sequence[Dialogue], device: str) -> float:
    """Mean negative log-likelihood of a human reply: of its text, so that any vocabulary may tell it."""
    network: Any = model.network.to(device)  # type: ignore[arg-type]
    predictor, total, replies = Predictor(network).eval(), 0.0, 0
    for batch in in_batches(dialogues, model.tokenizer, model.context):
        here = batch.to(torch.device(device))
        total += float(losses.label_nll(predictor(here.ids, here.reply), here.labels).sum())
        replies += sum(int(label) in model.tokenizer.eos_ids for label in batch.labels)
    network.to("cpu")
    return total / replies


def arm(name: str, artifact: Artifact, batch: int, device: str) -> Arm:
    """Served by transformers on the device."""
    at = OperatingPoint(batch=batch, reuse_prefix=False)
    return Arm(f"{name}, {batch} at once", ServingSpec(artifact, at, Access(device, "bf16")))


def reply_row(name: str, base: str, run: Run) -> dict[str, Any]:
    """Joules a reply, and the base's over it."""
    own = energy_analysis.measurement(name, run.windows, run.meter)
    row: dict[str, Any] = {"name": name, "kind": own.kind, "j_per_reply": plain(own.j_per_reply)}
    row["s_per_reply"] = plain(own.s_per_reply)
    if name != base:
        row["energy_ratio"] = plain(energy_analysis.energy_ratio(base, name, run.windows, run.meter))
    return row


if __name__ == "__main__":
    main()
