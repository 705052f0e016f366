"""halfwatt's winner against other toolkits' best: same model, dialogues and gate, in one interleaved run.

    python -m benchmarks.peers --winner OUT/winner --out OUT/peers [--toolkits openvino,torchao]
    python -m benchmarks.peers --shape 135M --out OUT/peers        a model with random weights: what runtimes cost
    python -m benchmarks.peers --show                              the tables of docs/peers.md

OUT/winner is the folder that ``halfwatt optimize demo`` delivered. Each toolkit lives in an environment of its own,
OUT/environments, made on first use from requirements/. Every peer is served at the operating point that is the best for
it, found as for any candidate (with random weights: on one thread, the best for all of them). Figures are of the
demo's test split, which none of them was chosen by. A peer's file is not compared with its maker's network (gate G0),
only its answers with the original's (G1 to G7); a model with random weights is not judged, and halfwatt's own there is
the ladder's int4. A large one fits memory with some toolkits at a time: the others' rows stay, each with its ratio to
halfwatt's in a run of its own. Writes benchmarks/peers/result.json; interrupted, the same command goes on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.ladder import gate, markdown, number, plain, say
from benchmarks.peers import llamacpp, shapes, torchao
from benchmarks.peers.toolkits import TOOLKITS, Workshop, workshops, write_texts
from halfwatt import demo
from halfwatt.compress.recipe import Recipe, default_recipes
from halfwatt.core.files import locked, turn, write_atomic
from halfwatt.core.settings import MeasurePlan, RunSettings
from halfwatt.dialogues.dialogue import Dialogue, DialogueSet
from halfwatt.dialogues.splits import SealedSplit
from halfwatt.evaluate import energy_analysis
from halfwatt.evaluate.energy_protocol import Run
from halfwatt.evaluate.examine import teacher_scores
from halfwatt.evaluate.facts import facts_of
from halfwatt.evaluate.fit import fit_of_candidate
from halfwatt.evaluate.gate import likelihood_check, overall_verdict, statistical_checks
from halfwatt.evaluate.records import GateCheck, QualityInputs
from halfwatt.evaluate.replies import generate_replies
from halfwatt.formats.artifact import Artifact, read_artifact
from halfwatt.meters.discover import Instruments, instruments
from halfwatt.models.chat_model import ChatModel, load
from halfwatt.runtimes.base import OperatingPoint
from halfwatt.runtimes.servable import read_operating_point
from halfwatt.search.build import build_artifact
from halfwatt.search.job import Job
from halfwatt.search.lab import Contender, Lab
from halfwatt.search.stage_store import StageStore
from halfwatt.search.stages import FitOrder, MeasureOrder, TuneOrder, measure, reference_fit, reference_replies, tune

RESULT = Path(__file__).parent / "result.json"
PLAN = MeasurePlan(min_blocks=7, max_blocks=30, limit_s=900.0, prefill=False)
SHAPE_PLAN = MeasurePlan(min_blocks=3, max_blocks=5, limit_s=900.0, prefill=False)
EVERY = ("llamacpp", *(toolkit.module for toolkit in TOOLKITS))


def main() -> None:
    """Make, measure, judge, or show what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--winner", type=Path)
    what.add_argument("--shape", choices=shapes.SHAPES)
    what.add_argument("--show", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("out/peers"))
    parser.add_argument("--toolkits", default=",".join(EVERY), help="some of: %(default)s")
    args = parser.parse_args()
    if args.show:
        show()
        return
    names = args.toolkits.split(",")
    if unknown := set(names) - set(EVERY):
        parser.error(f"no such toolkit: {', '.join(sorted(unknown))}; there are: {', '.join(EVERY)}")
    with locked(args.out), turn("cpu", say), closing(instruments("cpu")) as tools:
        shops = workshops(names, args.out / "environments", say)
        field = on_demo(args.winner, args.out, tools, shops) if args.winner else of_shape(args, tools, shops)
        rows = run_field(field, names, shops)
    document = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    if args.shape:
        known = document.setdefault("shapes", {}).get(args.shape, [])
        document["shapes"][args.shape] = list({row["name"]: row for row in (*known, *rows)}.values())
    else:
        document |= {"peers": rows[:-1], "winner": rows[-1]}
    write_atomic(RESULT, (json.dumps(document, indent=1) + "\n").encode())
    print(json.dumps([{"name": r["name"], "verdict": r["verdict"], **(r["cpu_s_ratio"] or {})} for r in rows]))


# --- what is compared -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Field:
    """Who meets, on what.

    reference:  B1
    judged:     the gate looks at it
    at:         how the others are served; None = each at the operating point that is the best for it
    """

    lab: Lab
    reference: Contender
    winner: Contender
    plan: MeasurePlan
    judged: bool
    at: OperatingPoint | None = None

    def serve(self, name: str, artifact: Artifact) -> Contender:
        """At its operating point."""
        contender = Contender(name, artifact, self.at or OperatingPoint())
        if self.at is not None:
            return contender
        plan = self.lab.job.settings.protocol.tune
        return replace(contender, at=self.lab.run(tune, TuneOrder(contender, plan)).best)


def on_demo(folder: Path, out: Path, tools: Instruments, shops: Sequence[Workshop]) -> Field:
    """The demo model, the winner that a search of it delivered, and the test split."""
    lab = lab_of(load(demo.path()), demo.dialogues("test"), out, tools, shops)
    winner = Contender("winner", read_artifact(folder), read_operating_point(folder))
    return Field(lab, original(lab), winner, PLAN, judged=True)


def of_shape(args: argparse.Namespace, tools: Instruments, shops: Sequence[Workshop]) -> Field:
    """Random weights, a few dialogues, short replies."""
    out = args.out / args.shape
    model = load(shapes.random_model(args.shape, out / "model"))
    test = demo.dialogues("test")
    few = DialogueSet.of(test.dialogues[:: len(test) // shapes.DIALOGUES], split="test", licence=test.licence)
    lab = lab_of(model, few, out, tools, shops)
    lab = replace(lab, workload=replace(lab.workload, cap=shapes.LONGEST[args.shape]))
    int4 = next(recipe for recipe in default_recipes() if recipe.name == "int4")
    own = build_artifact(model, int4, proof_of(lab), out / "artifacts")
    winner = Contender("winner", own, shapes.SERVED)
    return Field(lab, original(lab), winner, SHAPE_PLAN, judged=False, at=shapes.SERVED)


def lab_of(model: ChatModel, dialogues: DialogueSet, out: Path, tools: Instruments, shops: Sequence[Workshop]) -> Lab:
    """The dialogues that are measured, and the workers that serve the toolkits' models."""
    serve = {shop.toolkit.module: shop.serves for shop in shops}
    sealed = SealedSplit(demo.dialogues("test"), out / "unused.json")
    job = Job(model, demo.dialogues("tune"), sealed, out, tools, RunSettings(commands=serve, progress=say))
    return Lab.of(job, StageStore(out / "stages", {"model": model.sha256}), dialogues, "test")


def original(lab: Lab) -> Contender:
    """B1, not tuned yet."""
    job = lab.job
    artifact = build_artifact(job.model, Recipe("B1"), proof_of(lab), job.out / "artifacts")
    return Contender("B1", artifact, OperatingPoint())


def run_field(field: Field, names: Sequence[str], shops: Sequence[Workshop]) -> list[dict[str, Any]]:
    """A row for each peer, B1 and the winner."""
    field = replace(field, reference=field.serve("B1", field.reference.artifact))
    peers = llamacpp_peers(field) if "llamacpp" in names else []
    peers += [peer for shop in shops for peer in toolkit_peers(shop, field)]
    everyone = (*peers, field.reference, field.winner)
    run = field.lab.run(measure, MeasureOrder(everyone, field.plan))
    return [row(field, contender, run) for contender in everyone]


def proof_of(lab: Lab) -> tuple[Dialogue, ...]:
    """What exports are proved on: as many dialogues as a search takes."""
    return lab.workload.dialogues[: lab.job.settings.protocol.parity_dialogues]


# --- the peers --------------------------------------------------------------------------------------------------------


def llamacpp_peers(field: Field) -> list[Contender]:
    """llama.cpp's own integers, in the runtime that halfwatt serves with."""
    b1, folder = field.reference.artifact, field.lab.job.out / "artifacts"
    artifacts = {kind: llamacpp.quantize(b1, kind, folder / kind.lower()) for kind in llamacpp.KINDS}
    return [field.serve(f"llama.cpp {kind}", artifact) for kind, artifact in artifacts.items()]


def toolkit_peers(shop: Workshop, field: Field) -> list[Contender]:
    """All that a toolkit makes of the original; what is judged with care too, on the demo's training dialogues."""
    job = field.lab.job
    dialogues = demo.dialogues("train").dialogues if field.judged else ()
    texts = write_texts(dialogues, job.model.tokenizer, job.out / "texts.jsonl")
    peers = []
    for kind in (*shop.toolkit.kinds, *(shop.toolkit.careful if field.judged else ())):
        name = f"{shop.toolkit.name} {kind}"
        say(f"{name}: making it")
        folder = job.out / "artifacts" / Recipe(name).slug
        peers.append(field.serve(name, shop.build(kind, job.model.source, field.reference.artifact, texts, folder)))
    return peers


# --- the rows ---------------------------------------------------------------------------------------------------------


def row(field: Field, contender: Contender, run: Run) -> dict[str, Any]:
    """Its cost over the winner's, and what the gate says."""
    name, artifact = contender.name, contender.artifact
    cost = energy_analysis.measurement(name, run.windows, run.meter)
    reference, itself = name == "B1", name == "winner"
    checks = gate_checks(field, contender) if field.judged and not reference else []
    change = likelihood_check(checks)
    verdict = "reference" if reference else overall_verdict([c.verdict for c in checks]) if checks else "not judged"
    figure, vs = energy_analysis.cpu_s_per_reply, (name, "winner", run.windows)
    return {
        "name": name,
        "version": llamacpp.VERSION if artifact.runtime == llamacpp.RUNTIME else artifact.lineage[-1],
        "precision": artifact.precision,
        "weights_read_b": artifact.weights_read_b,
        "threads": contender.at.threads,
        "verdict": verdict,
        "not_passed": [f"{c.layer} {c.name}" for c in checks if c.verdict != "PASS"],
        "nll_change": plain(None if change is None else change.estimate),
        "cpu_s_per_reply": plain(cost.cpu_s_per_reply),
        "cpu_s_ratio": None if itself else plain(energy_analysis.ratio(*vs, figure)),
        "energy_ratio": None if itself else plain(energy_analysis.energy_ratio(*vs, run.meter)),
        "energy_kind": cost.kind,
    }


def show() -> None:
    """Markdown: on the demo model, cheapest first, and on every shape."""
    document = json.loads(RESULT.read_text(encoding="utf-8"))
    for name, rows in {"demo": [*document["peers"], document["winner"]], **document.get("shapes", {})}.items():
        ordered = sorted(rows, key=lambda row: row["cpu_s_per_reply"]["mean"])
        heads = ["toolkit", "MB/token", "threads", "CPU-ms/reply", "CPU time, it over halfwatt's", "nats/token", "gate"]
        print(f"\n## {name}\n\n{markdown([heads, *map(_cells, ordered)])}")


def _cells(row: dict[str, Any]) -> list[str]:
    return [
        "**halfwatt**" if row["name"] == "winner" else row["name"],
        f"{row['weights_read_b'] / 1e6:.2f}",
        str(row["threads"]),
        number(row["cpu_s_per_reply"], 1000),
        number(row["cpu_s_ratio"], 1, "x") if row["cpu_s_ratio"] else "1",
        number(row["nll_change"], 1),
        gate(row),
    ]


def gate_checks(field: Field, candidate: Contender) -> list[GateCheck]:
    """G1 to G7 against the original, on the split that was measured. The same weights, eager and compiled, are judged
    once, eager, which comes first."""
    lab, reference = field.lab, field.reference

    def inputs() -> QualityInputs:
        ours, theirs, proof = lab.spec(candidate), lab.spec(reference), reference.artifact.parity
        assert proof is not None  # the original's own: G1 to G7 do not look at it
        threads = candidate.at.threads or 1  # AutoRound's kernels take five times as long on one
        replies = generate_replies(ours, lab.workload.requests(), say, f"{candidate.name}: replies", threads=threads)
        scores = teacher_scores(theirs, ours, lab.workload, say)
        judge = reference.for_likelihood()
        known = lab.run(reference_fit, FitOrder(reference, judge))
        fit = fit_of_candidate(lab.spec(judge), lab.workload, known, replies, say)
        values = facts_of(lab.workload.dialogues)
        return QualityInputs(proof, scores, lab.run(reference_replies, reference), replies, values, fit)

    weights = candidate.name.removesuffix(torchao.COMPILED)
    stage = f"quality-{Recipe(weights).slug}-{candidate.artifact.sha256[:12]}"
    quality_inputs = lab.store.once(stage, QualityInputs, inputs)
    return statistical_checks(quality_inputs, lab.job.settings.margins, lab.job.model.tokenizer.special_tokens)


if __name__ == "__main__":
    main()
