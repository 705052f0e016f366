"""The whole ladder on the demo model, for the whole mix and for narrow traffic, judged and measured like any candidate.

    .venv/bin/python -m benchmarks.ladder make --traffic narrow --data DATA [--part 1/2]    trains, measures nothing
    .venv/bin/python -m benchmarks.ladder climb --traffic narrow --data DATA                measures, on a quiet machine
    .venv/bin/python -m benchmarks.ladder search --traffic mix --data DATA --budget 90m     in place of the listed rungs
    .venv/bin/python -m benchmarks.ladder show                                              docs/ladder.json, tables

DATA is the folder that the demo model was trained from (docs/demo_model.md); steps that learn take its training
dialogues, without any first user turn of the tune and test splits. ``make`` is ``climb``'s first half, so that several
processes can train side by side (recipes that begin alike are in one part); interrupted, each command goes on. Every
rung is measured against B1 and judged on the tune split; the best one meets B0 and B1 on the sealed split. ``climb``
writes OUT/TRAFFIC/{result.json,report.html}, ``search``, which finds its recipes itself, OUT/TRAFFIC-search. With
``--device cuda`` ``make`` trains on a GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
import tarfile
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from halfwatt import demo
from halfwatt.compress.apply import apply_recipe
from halfwatt.compress.base import Step, StepContext
from halfwatt.compress.distil import Distil
from halfwatt.compress.prune import Prune, Sparsify
from halfwatt.compress.quantize.mixed_precision import Mixed
from halfwatt.compress.quantize.qat import TrainOnGrid
from halfwatt.compress.quantize.quantize import Quantize
from halfwatt.compress.recipe import Recipe, default_recipes
from halfwatt.compress.vocabulary_trim import Trim
from halfwatt.core.estimate import Estimate
from halfwatt.core.files import locked
from halfwatt.core.settings import RunSettings, SearchSettings
from halfwatt.dialogues.dialogue import Dialogue, DialogueSet, Message
from halfwatt.dialogues.splits import SealedSplit, by_source
from halfwatt.evaluate.gate import likelihood_check
from halfwatt.evaluate.records import GateCheck
from halfwatt.meters.discover import instruments
from halfwatt.models.chat_model import load
from halfwatt.results.payback import Payback
from halfwatt.results.provenance import provenance
from halfwatt.results.report.formatting import ABSENT
from halfwatt.results.result import Result, parse
from halfwatt.results.tables import champion, meter, paybacks, proven
from halfwatt.results.write import write_results
from halfwatt.search import optimize
from halfwatt.search.budget import parse_budget
from halfwatt.search.job import Job
from halfwatt.search.trial import Trial
from scripts.demo_model import prepare

SOURCES = {"mix": prepare.SOURCES, "narrow": ("home", "support")}
DOCS = Path(__file__).parents[1] / "docs"


# --- what is climbed --------------------------------------------------------------------------------------------------


def post_training(traffic: str) -> tuple[Recipe, ...]:
    """What needs no training. Those that read about the same bytes on any traffic are climbed once."""
    once = (
        Recipe("mixed int4/int8", (Mixed(extra=0.15, method="gptq"),)),
        Recipe("trim + int4 GPTQ", (Trim(0.999), Quantize(4, method="gptq"))),
        Recipe("2:4 sparse, f16", (Sparsify("2:4"),)),
        Recipe("unstructured sparse, f16", (Sparsify("unstructured"),)),
    )
    return (
        *default_recipes(),
        Recipe("int4 GPTQ", (Quantize(4, method="gptq"),)),
        *(once if traffic == "narrow" else ()),
    )


def cut(width: float, ffn: float, drop: int, epochs: float) -> tuple[Step, ...]:
    """A student of these shares of channels and FFN neurons, taught by the original and by the human replies."""
    learn = Distil(cached=32, temperature=1.0, label_weight=0.5, epochs=epochs, lr=3e-3, batch_tokens=16384)
    return Prune(width, ffn, kv_heads=2 if width > 0.5 else 1, drop=drop), learn


def narrow() -> tuple[Recipe, ...]:
    """Students for two kinds of traffic, cut from the trimmed original."""
    trim, nearest, grid = Trim(0.999), Quantize(4, method="gptq"), TrainOnGrid(4)
    return (
        Recipe("int4 QAD", (grid,)),
        Recipe("3 blocks of 256, FFN 256, int4 GPTQ", (trim, *cut(0.667, 0.25, 5, epochs=16), nearest)),
        Recipe("3 blocks of 256, FFN 256, int4 QAD", (trim, *cut(0.667, 0.25, 5, epochs=16), grid)),
        Recipe("2 blocks of 256, FFN 512, int4 GPTQ", (trim, *cut(0.667, 0.5, 6, epochs=16), nearest)),
        Recipe("2 blocks of 256, FFN 256, int4 GPTQ", (trim, *cut(0.667, 0.25, 6, epochs=16), nearest)),
        Recipe("2 blocks of 192, FFN 512, int4 GPTQ", (trim, *cut(0.5, 0.5, 6, epochs=16), nearest)),
    )


def mix() -> tuple[Recipe, ...]:
    """Students for everything that the demo model does; no vocabulary is trimmed: they use nearly all of it."""
    nearest = Quantize(4, method="gptq")
    return (
        Recipe("4 blocks of 256, FFN 512, int4 GPTQ", (*cut(0.667, 0.5, 4, epochs=4), nearest)),
        Recipe("3 blocks of 256, FFN 512, int4 GPTQ", (*cut(0.667, 0.5, 5, epochs=4), nearest)),
        Recipe("3 blocks of 256, FFN 256, int4 GPTQ", (*cut(0.667, 0.25, 5, epochs=4), nearest)),
        Recipe("1 block of 256, FFN 512, int4 GPTQ", (*cut(0.667, 0.5, 7, epochs=8), nearest)),
        Recipe("2 blocks of 192, FFN 512, int4 GPTQ", (*cut(0.5, 0.5, 6, epochs=8), nearest)),
        Recipe("2 blocks of 192, FFN 256, int4 GPTQ", (*cut(0.5, 0.25, 6, epochs=8), nearest)),
    )


RUNGS = {"narrow": narrow, "mix": mix}


# --- the commands -----------------------------------------------------------------------------------------------------


def main() -> None:
    """Make, climb, search or show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("make", "climb", "search", "show"))
    parser.add_argument("--traffic", choices=SOURCES, default="narrow")
    parser.add_argument("--data", type=Path, help="for all but show")
    parser.add_argument("--out", type=Path, default=Path("out/ladder"))
    parser.add_argument("--budget", type=parse_budget, default="90m", help="for search: what it may cost")
    parser.add_argument("--part", default="1/1", help="for make: the first of two parts is 1/2")
    parser.add_argument("--device", default="cpu", help="for make: where the training runs")
    args = parser.parse_args()
    if args.command == "show":
        show(args.out)
    elif args.data is None:
        parser.error("--data is needed: the folder that the demo model was trained from")
    elif args.command == "make":
        make(args.traffic, args.data, args.out / args.traffic, args.part, args.device)
    elif args.command == "search":
        measure_traffic("search", args.traffic, args.data, args.out / f"{args.traffic}-search", search_within(args))
    else:
        unpack(args.traffic, args.out)
        measure_traffic("climb", args.traffic, args.data, args.out / args.traffic, listed_rungs(args.traffic))


def make(traffic: str, data: Path, out: Path, part: str, device: str) -> None:
    """Run the trainings of every ``number``-th recipe that has any, to checkpoints that ``climb`` finds finished."""
    number, of = map(int, part.split("/"))
    model = load(demo.path())
    dialogues = training(data, SOURCES[traffic]).dialogues
    context = StepContext(dialogues, settings=RunSettings(progress=say), device=device, cache=out / "training")
    groups: dict[str, list[Recipe]] = {}
    for recipe in RUNGS[traffic]():
        groups.setdefault(repr(recipe.steps[:2]), []).append(recipe)
    for group in list(groups.values())[number - 1 :: of]:
        for recipe in group:
            say(f"{recipe.name}: training")
            apply_recipe(model, recipe, context)


def listed_rungs(traffic: str) -> Callable[[Job], Job]:
    """The listed rungs."""
    return lambda job: replace(job, recipes=(*post_training(traffic), *RUNGS[traffic]()))


def search_within(args: argparse.Namespace) -> Callable[[Job], Job]:
    """What a search within the budget finds; the demo's own students are for its whole traffic."""
    adopted = demo.students() if args.traffic == "mix" else ()
    search = SearchSettings(args.budget, candidates=adopted)
    return lambda job: replace(job, recipes=(), settings=replace(job.settings, search=search), name="demo")


def measure_traffic(command: str, traffic: str, data: Path, out: Path, prepared: Callable[[Job], Job]) -> None:
    """Measure and judge what is ``tried``; the last line of the output is JSON."""
    sources = SOURCES[traffic]
    with locked(out), closing(instruments("cpu")) as tools:
        test = only(demo.dialogues("test"), sources)
        others = tuple(s for s in prepare.SOURCES if s not in sources)
        job = Job(
            model=load(demo.path()),
            tune=only(demo.dialogues("tune"), sources),
            test=SealedSplit(test, out / "stages" / "test-opened.json"),
            out=out,
            tools=tools,
            train=training(data, sources),
            outside=by_source(only(demo.dialogues("tune"), others), most=64) if others else {},
            settings=RunSettings(progress=say, command=f"python -m benchmarks.ladder {command} --traffic {traffic}"),
        )
        job = prepared(job)
        outcome = optimize.optimize(job)
        sets = [part for part in (job.tune, test, job.train) if part is not None]
        origin = provenance(job.settings, "demo", job.model.sha256, f"demo, {' and '.join(sources)}", *sets)
        result = write_results(outcome, job, origin)
    print(json.dumps({"traffic": traffic, "rungs": rows(result, traffic), "claim": result.claim.verdict}))


def unpack(traffic: str, out: Path) -> None:
    """Students that a GPU has taught and that come with the sources are found finished."""
    for archive in sorted((Path(__file__).parent / "students").glob(f"{traffic}-*.tar.gz")):
        with tarfile.open(archive) as packed:
            packed.extractall(out, filter="data")


def show(out: Path) -> None:
    """Write docs/ladder.json, traffic that was not climbed here as it stood, and print the tables of docs/ladder.md."""
    file = DOCS / "ladder.json"
    before = json.loads(file.read_text(encoding="utf-8"))["rungs"] if file.exists() else []
    every = {traffic: [row for row in before if row["traffic"] == traffic] for traffic in SOURCES}
    files = {traffic: out / traffic / "result.json" for traffic in SOURCES}
    every |= {traffic: rows(parse(path.read_bytes()), traffic) for traffic, path in files.items() if path.exists()}
    document = {"rungs": [row for some in every.values() for row in some]}
    file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    for traffic, some in every.items():
        print(f"\n## {traffic}\n\n{table(some)}")


def say(text: str) -> None:
    """Progress."""
    print(text, file=sys.stderr, flush=True)


# --- the rows ---------------------------------------------------------------------------------------------------------


def rows(result: Result, traffic: str) -> list[dict[str, Any]]:
    """One for each rung on the tune split, and one for the winner on the sealed split."""
    repaid = {p.trial: p for p in paybacks(result)}
    table_rows = [_row(trial, traffic, result, repaid.get(trial.name)) for trial in result.trials]
    if any(trial.name == result.claim.about for trial in result.trials):
        sealed = proven(result, champion(result))
        table_rows.append(_row(sealed, traffic, result, repaid.get(sealed.name)))
    return table_rows


def _row(trial: Trial, traffic: str, result: Result, paid: Payback | None) -> dict[str, Any]:
    quality, energy, artifact, info = trial.quality, trial.energy, trial.artifact, meter(result)
    check = likelihood_check(quality.checks if quality else ())
    failed = [] if quality is None else [f"{c.layer} {c.name}" for c in quality.checks if c.verdict != "PASS"]
    return {
        "name": trial.name,
        "traffic": traffic,
        "split": quality.split if quality else None,
        "verdict": quality.verdict if quality else trial.status,
        "reason": trial.reason,
        "not_passed": failed,
        "cpu_s_ratio_vs_B1": plain(trial.cpu_s_ratio_vs_B1),
        "energy_ratio_vs_B1": plain(trial.energy_ratio_vs_B1),
        "energy_kind": info.kind if info else None,
        "cpu_s_per_reply": plain(energy.cpu_s_per_reply if energy else None),
        "j_per_reply": plain(energy.j_per_reply if energy else None),
        "weights_read_b": artifact and artifact.weights_read_b,
        "kv_b_per_token": artifact and artifact.kv_b_per_token,
        "nll_change": plain(check.estimate if check else None),
        "kl": quality and quality.kl_mean,
        "top1": quality and quality.top1,
        "training": paid and {"tokens": paid.tokens, "cpu_s": paid.cpu_s, "joules": paid.joules, "kind": paid.kind},
        "repaid_after_replies": paid
        and {"by_cpu_s": plain(paid.replies_by_cpu_s), "by_joules": plain(paid.replies_by_joules)},
    }


def plain(e: Estimate | None) -> dict[str, float] | None:
    """An estimate as JSON."""
    return None if e is None else {"mean": e.mean, "lo": e.lo, "hi": e.hi}


def gate_row(c: GateCheck) -> dict[str, Any]:
    """A check as JSON."""
    return {"layer": c.layer, "name": c.name, "verdict": c.verdict, "estimate": plain(c.estimate), "detail": c.detail}


def table(some: Sequence[dict[str, Any]]) -> str:
    """Markdown, a row a line; what was not measured is a dash."""
    heads = ["rung", "split", "gate", "MB/token", "CPU-ms/reply", "CPU time, B1 over it", "energy, B1 over it"]
    heads += ["nats/token", "KL", "top-1", "training CPU-s", "repaid after replies"]
    return markdown([heads, *(_cells(row) for row in some)])


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table; the first row is its head."""
    head, *rest = rows
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rest))


def _cells(row: dict[str, Any]) -> list[str]:
    training, repaid = row["training"], row["repaid_after_replies"]
    return [
        row["name"],
        row["split"] or ABSENT,
        gate(row),
        f"{row['weights_read_b'] / 1e6:.2f}" if row["weights_read_b"] else ABSENT,
        number(row["cpu_s_per_reply"], 1000),
        number(row["cpu_s_ratio_vs_B1"], 1, "x"),
        number(row["energy_ratio_vs_B1"], 1, "x"),
        number(row["nll_change"], 1),
        ABSENT if row["kl"] is None else f"{row['kl']:.2g}",
        ABSENT if row["top1"] is None else f"{row['top1']:.1%}",
        f"{training['cpu_s']:,.0f}" if training and training["cpu_s"] is not None else ABSENT,
        number(repaid["by_cpu_s"], 1) if repaid else ABSENT,
    ]


def gate(row: dict[str, Any]) -> str:
    """Of the gate, with what was not passed."""
    return str(row["verdict"]) + (f" ({', '.join(row['not_passed'])})" if row["not_passed"] else "")


def number(estimate: dict[str, float] | None, scale: float, unit: str = "") -> str:
    """A mean with its interval."""
    if estimate is None:
        return ABSENT
    mean, lo, hi = (scale * estimate[name] for name in ("mean", "lo", "hi"))
    digits = ",.0f" if abs(mean) >= 1000 else ".3g"
    return f"{mean:{digits}}{unit} [{lo:{digits}}, {hi:{digits}}]"


# --- the dialogues ----------------------------------------------------------------------------------------------------


def only(dialogues: DialogueSet, sources: tuple[str, ...]) -> DialogueSet:
    """The dialogues of some sources."""
    kept = [d for d in dialogues.dialogues if d.source in sources]
    return DialogueSet.of(kept, split=dialogues.split, licence=dialogues.licence)


def training(data: Path, sources: tuple[str, ...]) -> DialogueSet:
    """The training dialogues of these sources."""
    rows = [row for source in sources for row in prepare.corpus(data)[source]]
    dialogues = [
        Dialogue(row["id"], tuple(Message(m["role"], m["content"]) for m in row["messages"]), row["source"])
        for row in rows
    ]
    return DialogueSet.of(dialogues, split="train", licence=demo.dialogues("train").licence)


if __name__ == "__main__":
    main()
