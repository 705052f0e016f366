"""The whole ladder on the demo model, for the whole mix and for narrow traffic, judged and measured like any candidate.

    .venv/bin/python -m benchmarks.ladder --traffic narrow --data DATA --out out/ladder

DATA is the folder that the demo model was trained from (docs/demo_model.md); steps that learn take its training
dialogues, without any first user turn of the tune and test splits. Interrupted, the same command goes on. Every rung is
measured against B1 and judged on the tune split; the best one meets B0 and B1 on the sealed split. Writes
OUT/TRAFFIC/{result.json,report.html} and one rung a line; the last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from halfwatt import demo, search
from halfwatt.chat_model import load
from halfwatt.deliver import deliver
from halfwatt.demo import prepare
from halfwatt.dialogue import Dialogue, DialogueSet, Message, SealedSplit
from halfwatt.files import locked
from halfwatt.provenance import provenance
from halfwatt.recipe import Recipe, ladder
from halfwatt.steps.allocate import Mixed
from halfwatt.steps.distil import Distil
from halfwatt.steps.prune import Prune, Sparsify
from halfwatt.steps.qat import TrainOnGrid
from halfwatt.steps.quantize import Quantize
from halfwatt.steps.vocabulary import Trim
from halfwatt.workload import instruments

SOURCES = {"mix": prepare.SOURCES, "narrow": ("home", "support")}
TRAINING = {"home": 6000, "service": 4000, "support": 4000, "chitchat": 3000}  # dialogues of each source, at most


def rungs(epochs: float) -> tuple[Recipe, ...]:
    """Post-training first, then what trains; each a recipe that anyone can write."""
    small, tiny = Prune(ffn=0.625, drop=2), Prune(ffn=0.375, drop=5)
    learn = Distil(epochs=epochs, lr=1e-3)
    grid = TrainOnGrid(4, epochs=epochs / 2, lr=2e-4)
    return (
        *ladder(),
        Recipe("int4 GPTQ", (Quantize(4, method="gptq"),)),
        Recipe("mixed", (Mixed(extra=0.15),)),
        Recipe("int4 QAD", (grid,)),
        Recipe("2-4 sparse, f16", (Sparsify("2:4"),)),
        Recipe("unstructured sparse, f16", (Sparsify("unstructured"),)),
        Recipe("trim + int4 QAD", (Trim(), grid)),
        Recipe("trim + 5-8 depth + distil + int4 QAD", (Trim(), small, learn, grid)),
        Recipe("trim + 3-8 depth + distil + int4 QAD", (Trim(), tiny, learn, grid)),
    )


def main() -> None:
    """Climb and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--traffic", choices=SOURCES, default="narrow")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("out/ladder"))
    parser.add_argument("--epochs", type=float, default=2.0)
    given = parser.parse_args()
    sources, out = SOURCES[given.traffic], given.out / given.traffic
    with locked(out), closing(instruments("cpu")) as tools:
        test = _only(demo.dialogues("test"), sources)
        job = search.Job(
            model=load(demo.path()),
            tune=_only(demo.dialogues("tune"), sources),
            test=SealedSplit(test, out / "stages" / "test-opened.json"),
            out=out,
            tools=tools,
            train=_training(given.data, sources),
            recipes=rungs(given.epochs),
            progress=lambda text: print(text, file=sys.stderr),
        )
        outcome = search.optimize(job)
        sha256 = {"tune": job.tune.sha256, "test": test.sha256, "train": job.train.sha256 if job.train else ""}
        made = provenance(
            command=f"python -m benchmarks.ladder --traffic {given.traffic} --epochs {given.epochs}",
            seed=job.seed,
            model="demo",
            model_sha256=job.model.sha256,
            dialogues=f"demo, {' and '.join(sources)}",
            sha256=sha256,
        )
        result = deliver(outcome, job, made)
    rows = [_row(trial, given.traffic) for trial in result.trials]
    print(json.dumps({"traffic": given.traffic, "rungs": rows, "claim": result.claim.verdict}, default=str))


def _row(trial: Any, traffic: str) -> dict[str, Any]:
    ratio, quality = trial.cpu_s_ratio_vs_B1, trial.quality
    row = {
        "name": trial.name,
        "traffic": traffic,
        "verdict": quality.verdict if quality else trial.status,
        "cpu_s_ratio_vs_B1": ratio and {"mean": ratio.mean, "lo": ratio.lo, "hi": ratio.hi},
        "weights_read_b": trial.artifact and trial.artifact.weights_read_b,
        "kl": quality and quality.kl_mean,
        "top1": quality and quality.top1,
        "reason": trial.reason,
    }
    shown = f"{ratio.mean:.2f}x [{ratio.lo:.2f}, {ratio.hi:.2f}]" if ratio else "-"
    print(f"{trial.name:40} {row['verdict']:13} {shown}")
    return row


def _only(found: DialogueSet, sources: tuple[str, ...]) -> DialogueSet:
    kept = [d for d in found.dialogues if d.source in sources]
    return DialogueSet.of(kept, split=found.split, licence=found.licence)


def _training(data: Path, sources: tuple[str, ...]) -> DialogueSet:
    """The training dialogues of these sources, each a number of them that an hour can show."""
    rows = [row for source in sources for row in prepare.corpus(data)[source][: TRAINING[source]]]
    told = [
        Dialogue(row["id"], tuple(Message(m["role"], m["content"]) for m in row["messages"]), row["source"])
        for row in rows
    ]
    return DialogueSet.of(told, split="train", licence=demo.dialogues("train").licence)


if __name__ == "__main__":
    main()
