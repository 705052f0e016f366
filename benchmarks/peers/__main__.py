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
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.ladder import gate, markdown, number, say
from benchmarks.peers import shapes
from benchmarks.peers.field import Field, lab_of, original, proof_of, run_field
from benchmarks.peers.toolkits import TOOLKITS, Workshop, workshops
from halfwatt import demo
from halfwatt.compress.recipe import default_recipes
from halfwatt.core.files import locked, turn, write_atomic
from halfwatt.core.settings import MeasurePlan, RunSettings
from halfwatt.dialogues.dialogue import DialogueSet
from halfwatt.formats.artifact import read_artifact
from halfwatt.meters.discover import Instruments, instruments
from halfwatt.models.chat_model import load
from halfwatt.runtimes.base import read_operating_point
from halfwatt.search.build import build_artifact
from halfwatt.search.lab import Contender

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


def on_demo(folder: Path, out: Path, tools: Instruments, shops: Sequence[Workshop]) -> Field:
    """The demo model, the winner that a search of it delivered, and the test split."""
    lab = lab_of(load(demo.path()), demo.dialogues("test"), out, tools, shops, RunSettings())
    winner = Contender("winner", read_artifact(folder), read_operating_point(folder))
    train = demo.dialogues("train").dialogues
    return Field(lab, original(lab), winner, PLAN, judged=len(lab.workload.dialogues), train=train, folder=demo.path())


def of_shape(args: argparse.Namespace, tools: Instruments, shops: Sequence[Workshop]) -> Field:
    """Random weights, a few dialogues, short replies."""
    out = args.out / args.shape
    model = load(shapes.random_model(args.shape, out / "model"))
    test = demo.dialogues("test")
    few = DialogueSet.of(test.dialogues[:: len(test) // shapes.DIALOGUES], split="test", licence=test.licence)
    lab = lab_of(model, few, out, tools, shops, RunSettings())
    lab = replace(lab, workload=replace(lab.workload, cap=shapes.LONGEST[args.shape]))
    int4 = next(recipe for recipe in default_recipes() if recipe.name == "int4")
    own = build_artifact(model, int4, proof_of(lab), out / "artifacts")
    winner = Contender("winner", own, shapes.SERVED)
    return Field(lab, original(lab), winner, SHAPE_PLAN, 0, (), model.source, shapes.SERVED)


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


if __name__ == "__main__":
    main()
