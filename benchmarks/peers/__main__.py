"""halfwatt's winner against other toolkits' best: same model, dialogues and gate, in one interleaved run.

    python -m benchmarks.peers --winner OUT/winner --out OUT/peers [--toolkits openvino,torchao]
    python -m benchmarks.peers --shape 135M --out OUT/peers        a model with random weights: what runtimes cost
    python -m benchmarks.peers --show                              the tables of README.md

OUT/winner is the folder that ``halfwatt optimize demo`` delivered. Each toolkit lives in an environment of its own,
OUT/environments, made on first use from requirements/. Every peer is served at the operating point that is the best for
it, found as for any candidate (with random weights: on one thread, the best for all of them). Figures are of the
demo's test split, which none of them was chosen by. A peer's file is not compared with its maker's network (gate G0),
only its answers with the original's (G1 to G5); a model with random weights is not judged, and halfwatt's own there is
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
from benchmarks.peers.toolkits import TOOLKITS, Workshop, workshops, written
from halfwatt import demo
from halfwatt.compress.recipe import Recipe, default_recipes
from halfwatt.core.files import locked, turn, write_atomic
from halfwatt.core.settings import MeasurePlan, RequestSettings, RunSettings
from halfwatt.dialogues.dialogue import DialogueSet
from halfwatt.dialogues.splits import SealedSplit
from halfwatt.evaluate import energy_analysis, examine, requests
from halfwatt.evaluate.energy_protocol import Run, measure
from halfwatt.evaluate.gate import likelihood_check, overall_verdict, statistical_checks
from halfwatt.evaluate.records import GateCheck, QualityInputs
from halfwatt.evaluate.replies import generate_replies
from halfwatt.evaluate.requests import ChatFormat, Workload
from halfwatt.formats.artifact import Artifact, read_artifact
from halfwatt.meters.discover import Instruments, instruments
from halfwatt.models.chat_model import ChatModel, load
from halfwatt.runtimes.base import OperatingPoint
from halfwatt.runtimes.servable import read_operating_point
from halfwatt.search import build
from halfwatt.search.candidate import Evaluator, arm, tuned
from halfwatt.search.job import Job
from halfwatt.search.stages import StageStore
from halfwatt.search.trial import Trial

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
    given = parser.parse_args()
    if given.show:
        show()
        return
    names = given.toolkits.split(",")
    if unknown := set(names) - set(EVERY):
        parser.error(f"no such toolkit: {', '.join(sorted(unknown))}; there are: {', '.join(EVERY)}")
    with locked(given.out), turn("cpu", say), closing(instruments("cpu")) as tools:
        shops = workshops(names, given.out / "environments", say)
        made = on_demo(given.winner, given.out, tools, shops) if given.winner else of_shape(given, tools, shops)
        rows = met(made, names, shops)
    found = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    if given.shape:
        known = found.setdefault("shapes", {}).get(given.shape, [])
        found["shapes"][given.shape] = list({row["name"]: row for row in (*known, *rows)}.values())
    else:
        found |= {"peers": rows[:-1], "winner": rows[-1]}
    write_atomic(RESULT, (json.dumps(found, indent=1) + "\n").encode())
    print(json.dumps([{"name": r["name"], "verdict": r["verdict"], **(r["cpu_s_ratio"] or {})} for r in rows]))


# --- what is compared -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Field:
    """Who meets, on what.

    judged:  the gate looks at it
    at:      how the others are served; None = each at the operating point that is the best for it
    """

    arena: Evaluator
    winner: Trial
    plan: MeasurePlan
    judged: bool
    at: OperatingPoint | None = None


def on_demo(folder: Path, out: Path, tools: Instruments, shops: Sequence[Workshop]) -> Field:
    """The demo model, the winner that a search of it delivered, and the test split."""
    model = load(demo.path())
    seen = requests.make_workload(demo.dialogues("test"), ChatFormat.of_model(model), RequestSettings())
    winner = replace(trial("winner", read_artifact(folder)), at=read_operating_point(folder))
    return Field(arena_of(model, seen, out, tools, shops), winner, PLAN, judged=True)


def of_shape(given: argparse.Namespace, tools: Instruments, shops: Sequence[Workshop]) -> Field:
    """Random weights, a few dialogues, short replies."""
    out = given.out / given.shape
    model = load(shapes.made(given.shape, out / "model"))
    test = demo.dialogues("test")
    few = DialogueSet.of(test.dialogues[:: len(test) // shapes.DIALOGUES], split="test", licence=test.licence)
    seen = replace(
        requests.make_workload(few, ChatFormat.of_model(model), RequestSettings()), cap=shapes.LONGEST[given.shape]
    )
    arena = arena_of(model, seen, out, tools, shops)
    int4 = next(recipe for recipe in default_recipes() if recipe.name == "int4")
    own = build.build(model, int4, seen.dialogues, out / "artifacts", "cpu")
    winner = replace(trial("winner", own), at=shapes.SERVED)
    return Field(arena, winner, SHAPE_PLAN, judged=False, at=shapes.SERVED)


def arena_of(model: ChatModel, seen: Workload, out: Path, tools: Instruments, shops: Sequence[Workshop]) -> Evaluator:
    """B1, and the workers that serve the others."""
    test = demo.dialogues("test")
    serve = {shop.toolkit.module: shop.serves for shop in shops}
    sealed = SealedSplit(test, out / "unused.json")
    job = Job(model, demo.dialogues("tune"), sealed, out, tools, RunSettings(commands=serve, progress=say))
    exported = build.build(model, Recipe("B1"), seen.dialogues, out / "artifacts", "cpu")
    return Evaluator(job, StageStore(out / "stages", {"model": model.sha256}), trial("B1", exported), seen)


def met(field: Field, names: Sequence[str], shops: Sequence[Workshop]) -> list[dict[str, Any]]:
    """A row for each peer, B1 and the winner."""
    field = replace(field, arena=replace(field.arena, b1=served(field, field.arena.b1)))
    arena = field.arena
    others = own(field) if "llamacpp" in names else []
    others += [each for shop in shops for each in made_by(shop, field)]
    everyone = [*others, arena.b1, field.winner]
    arms = [arm(arena.job, each) for each in everyone]
    seen, told = arena.traffic, "-".join(names)
    stage = f"duel-{told}-{artifact_of(field.winner).sha256[:12]}"
    run = arena.journal.once(stage, Run, lambda: measure(arms, seen, field.plan, arena.job.tools, say))
    return [row(field, each, run) for each in everyone]


# --- the peers --------------------------------------------------------------------------------------------------------


def own(field: Field) -> list[Trial]:
    """llama.cpp's own integers, in the runtime that halfwatt serves with."""
    original, folder = artifact_of(field.arena.b1), field.arena.job.out / "artifacts"
    made = {kind: llamacpp.quantized(original, kind, folder / kind.lower()) for kind in llamacpp.KINDS}
    return [served(field, trial(f"llama.cpp {kind}", artifact)) for kind, artifact in made.items()]


def made_by(shop: Workshop, field: Field) -> list[Trial]:
    """All that a toolkit makes of the original; what is judged with care too, on the demo's training dialogues."""
    original, job = artifact_of(field.arena.b1), field.arena.job
    told = demo.dialogues("train").dialogues if field.judged else ()
    texts = written(told, job.model.tokenizer, job.out / "texts.jsonl")
    found = []
    for kind in (*shop.toolkit.kinds, *(shop.toolkit.careful if field.judged else ())):
        name = f"{shop.toolkit.name} {kind}"
        say(f"{name}: making it")
        folder = job.out / "artifacts" / Recipe(name).slug
        found.append(served(field, trial(name, shop.made(kind, job.model.source, original, texts, folder))))
    return found


def trial(name: str, artifact: Artifact) -> Trial:
    """Not tuned yet."""
    return Trial(name, (), "done", None, artifact, OperatingPoint(), None, None)


def served(field: Field, each: Trial) -> Trial:
    """At its operating point."""
    arena = field.arena
    if field.at is not None:
        return replace(each, at=field.at)
    return tuned(arena.job, arena.journal, Recipe(each.name).slug, each, arena.traffic)


def artifact_of(each: Trial) -> Artifact:
    """Everybody here has one."""
    assert each.artifact is not None
    return each.artifact


# --- the rows ---------------------------------------------------------------------------------------------------------


def row(field: Field, each: Trial, run: Run) -> dict[str, Any]:
    """Its cost over the winner's, and what the gate says."""
    artifact, cost = artifact_of(each), energy_analysis.measurement(each.name, run.windows, run.meter)
    reference, itself = each.name == "B1", each.name == "winner"
    checks = judged(field.arena, each) if field.judged and not reference else []
    change = likelihood_check(checks)
    verdict = "reference" if reference else overall_verdict([c.verdict for c in checks]) if checks else "not judged"
    figure, vs = energy_analysis.cpu_s_per_reply, (each.name, "winner", run.windows)
    return {
        "name": each.name,
        "version": llamacpp.VERSION if artifact.runtime == llamacpp.RUNTIME else artifact.lineage[-1],
        "precision": artifact.precision,
        "weights_read_b": artifact.weights_read_b,
        "threads": each.at.threads,
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
    found = json.loads(RESULT.read_text(encoding="utf-8"))
    for name, rows in {"demo": [*found["peers"], found["winner"]], **found.get("shapes", {})}.items():
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


def judged(arena: Evaluator, each: Trial) -> list[GateCheck]:
    """G1 to G5 against the original, on the split that was measured. The same weights, eager and compiled, are judged
    once, eager, which comes first."""
    artifact = artifact_of(each)

    def inputs() -> QualityInputs:
        reference, own, seen = arm(arena.job, arena.b1).spec, arm(arena.job, each).spec, arena.traffic
        asked = build.reference_replies(reference, seen, arena.journal, "test", say)
        threads = each.at.threads or 1  # AutoRound's kernels take five times as long on one
        replies = generate_replies(own, seen.requests(), say, f"{each.name}: replies", threads=threads)
        proof = reference.artifact.parity
        assert proof is not None  # the original's own: G1 to G5 do not look at it
        return QualityInputs(proof, examine.teacher_scores(reference, own, seen, say), asked, replies)

    stage = f"quality-{Recipe(each.name.removesuffix(torchao.COMPILED)).slug}-{artifact.sha256[:12]}"
    found = arena.journal.once(stage, QualityInputs, inputs)
    return statistical_checks(found, arena.job.settings.margins, arena.job.model.tokenizer.special_tokens)


if __name__ == "__main__":
    main()
