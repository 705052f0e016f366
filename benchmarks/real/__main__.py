"""Public chat models on narrow traffic: searched for an hour or two, then beside every peer that answers as well.

    python -m benchmarks.real run NAME --model MODEL --dialogues FILE --budget 60m --out OUT
        [--original "SmolLM2-135M-Instruct"] [--chat-template FILE] [--run-only] [--alone] [--judge MODEL]
    python -m benchmarks.real tuned NAME --model MODEL --dialogues FILE --out OUT --minutes 40
    python -m benchmarks.real show                                                              the README's table
    python -m benchmarks.real replies NAME --model MODEL --dialogues FILE --out OUT             side by side, Markdown

``run`` searches (OUT/search), makes the peers of benchmarks.peers, and measures B1, winner and peers in one interleaved
run on the sealed split, each judged by the whole gate. ``tuned`` is the yardstick that a public model deserves: it has
not seen the dialogues, so it learns them too, by LoRA (``peft``, installed for it: pip install -c constraints.txt
peft), as long as the student did; it is judged as a peer is, and the student against it. Interrupted, the same
command goes on. Writes benchmarks/real/result.json: {"rows": [...]}, one row a NAME.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.ladder import gate_row, markdown, number, plain, say
from benchmarks.peers.field import Field, lab_of, original, run_field
from benchmarks.peers.toolkits import workshops
from benchmarks.real import tuned
from benchmarks.real.replies import side_by_side
from halfwatt.api.inputs import splits
from halfwatt.api.verbs import optimize
from halfwatt.core.files import locked, turn, write_atomic
from halfwatt.core.settings import Access, MeasurePlan, RunSettings
from halfwatt.evaluate.saving_explained import explain_saving
from halfwatt.formats.artifact import read_artifact
from halfwatt.formats.registry import load_model
from halfwatt.meters.discover import instruments
from halfwatt.models.chat_model import ChatModel
from halfwatt.results.result import Result, parse
from halfwatt.runtimes.base import read_operating_point
from halfwatt.search.budget import parse_budget
from halfwatt.search.lab import Contender

RESULT = Path(__file__).parent / "result.json"
PLAN = MeasurePlan(min_blocks=7, max_blocks=30, limit_s=1500.0, half_width=0.04, prefill=False)
TOOLKITS = ("openvino", "onnxruntime")
REPLIES = 12  # that are shown side by side


def main() -> None:
    """Search, compare, fine-tune, or show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True, dest="verb")
    for verb in ("run", "tuned", "replies"):
        one = verbs.add_parser(verb)
        one.add_argument("name")
        one.add_argument("--model", required=True)
        one.add_argument("--original", help="what the table calls it; the name of its folder if not given")
        one.add_argument("--dialogues", type=Path, required=True)
        one.add_argument("--out", type=Path, required=True)
        one.add_argument("--chat-template", type=Path)
        one.add_argument("--run-only", action="store_true", help="keep a GGUF file shut, as of a family nobody opens")
        one.add_argument("--judge", help="tells what fits (G7); the original if not given")
        one.add_argument("--budget", default="60m")
        one.add_argument("--minutes", type=float, default=40.0)
        one.add_argument("--alone", action="store_true", help="no peers: the winner beside B1")
        one.add_argument("--toolkits", default=",".join(TOOLKITS), help='some of %(default)s; "" = llama.cpp alone')
    verbs.add_parser("show")
    args = parser.parse_args()
    if args.verb == "show":
        peers = [f"### {row['name']}\n\n{peers_table(row)}" for row in _rows() if row["peers"]]
        print("\n\n".join([table(), tuned_table(), *peers]))
        return
    if args.verb == "replies":
        print("\n\n".join(replies(args)))
        return
    row = {"run": run, "tuned": fine_tuned}[args.verb](args)
    rows = {each["name"]: each for each in _rows()}
    rows[args.name] = {"name": args.name, **rows.get(args.name, {}), **row}
    write_atomic(RESULT, (json.dumps({"rows": list(rows.values())}, indent=1) + "\n").encode())
    print(json.dumps(rows[args.name]))


def run(args: argparse.Namespace) -> dict[str, Any]:
    """A search, and its winner beside all peers."""
    settings = _settings(args)
    result = optimize(args.model, args.dialogues, budget=args.budget, out=args.out / "search", settings=settings)
    rows = [] if args.alone else beside_peers(args, settings, result)
    return summary(args, result, rows)


def beside_peers(args: argparse.Namespace, settings: RunSettings, result: Result) -> list[dict[str, Any]]:
    """A row for each peer, B1 and the winner, of one interleaved run on the sealed split."""
    b1 = result.baselines.B1.artifact
    assert b1 is not None
    assert "as given" not in b1.precision, "B1 is the file as given, and peers are made of its 16-bit form: --alone"
    traffic = splits(args.model, args.dialogues, settings)
    with locked(args.out), turn("cpu", say), closing(instruments("cpu")) as tools:
        model = load_model(args.model, settings.access)
        shops = workshops([name for name in args.toolkits.split(",") if name], args.out / "environments", say)
        lab = lab_of(model, traffic["test"], args.out, tools, shops, settings)
        served = winner_of(args, result)
        train, folder = traffic["train"].dialogues, folder_of(model, args.out)
        about = result.winner == result.claim.about  # else B1 was delivered, and the verdict is another's
        known = {"winner": result.final_quality.checks} if about and result.final_quality else {}
        how = (PLAN, judged_on(result), train, folder)
        asked = result.raw.quality_inputs
        field = Field(lab, original(lab), served, *how, known=known, asked=asked, best_only=True)
        return run_field(field, ("llamacpp", *args.toolkits.split(",")), shops)


def fine_tuned(args: argparse.Namespace) -> dict[str, Any]:
    """The original that has learned the dialogues as well."""
    settings = _settings(args)
    traffic = splits(args.model, args.dialogues, settings)
    with locked(args.out), turn("cpu", say), closing(instruments("cpu")) as tools:
        model = load_model(args.model, settings.access)
        result = parse((args.out / "search" / "result.json").read_bytes())
        assert result.winner == result.claim.about, "nothing passed, B1 was delivered: there is no student to compare"
        lab = lab_of(model, traffic["test"], args.out, tools, (), settings)
        own = tuned.fine_tune(model, traffic["train"].dialogues, args.minutes, args.out / "tuned", lab)
        how = (PLAN, judged_on(result), (), args.out)
        field = Field(lab, original(lab), winner_of(args, result), *how, asked=result.raw.quality_inputs)
        return {"fine_tuned": tuned.judged(field, own)}


def winner_of(args: argparse.Namespace, result: Result) -> Contender:
    """What the search delivered, as it serves it."""
    folder = args.out / "search" / result.winner_path
    return Contender("winner", read_artifact(folder), read_operating_point(folder))


def replies(args: argparse.Namespace) -> Iterator[str]:
    """What original and winner said, `REPLIES` of them."""
    result = parse((args.out / "search" / "result.json").read_bytes())
    assert result.raw.quality_inputs is not None, "a search ends with a verdict"
    test = splits(args.model, args.dialogues, _settings(args))["test"].dialogues
    yield f"## {args.name}"
    yield from side_by_side(result.raw.quality_inputs, test, REPLIES, result.provenance.seed)


def judged_on(result: Result) -> int:
    """Dialogues of the sealed split on which the winner was judged: its peers are judged on the same."""
    assert result.final_quality is not None, "a search ends with a verdict"
    return result.final_quality.dialogues


def folder_of(model: ChatModel, out: Path) -> Path:
    """The original as a Hugging Face folder, which toolkits read."""
    folder = out / "original"
    if not folder.exists():
        model.save(folder)
    return folder


def summary(args: argparse.Namespace, result: Result, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What the table shows of a row; the ratio in two: what a token costs less, and what shorter replies save."""
    b1 = next((row for row in rows if row["name"] == "B1"), None)
    assert result.raw.quality_inputs is not None, "a search ends with a verdict"
    why = explain_saving("B1", "winner", result.raw.windows, result.raw.quality_inputs)
    rank = {"PASS": 0, "INCONCLUSIVE": 1}
    able = [row for row in rows if row["verdict"] in rank and row["name"] != "winner"]
    best = min(able, key=lambda row: (rank[row["verdict"]], row["cpu_s_per_reply"]["mean"]), default=None)
    budget = parse_budget(args.budget)
    return {
        "original": args.original or Path(args.model).stem,
        "traffic": args.dialogues.name,
        "budget_s": budget.seconds,
        "judge": args.judge and "/".join(Path(args.judge).parts[-2:]),  # many files are called model.gguf
        "edition": result.schema,
        "verdict": result.claim.verdict,
        "winner": result.claim.about,
        "delivered": result.winner,
        "plan": [] if result.plan is None else result.plan.lines,
        "cpu_s_ratio_vs_B1": plain(result.claim.cpu_s_ratio_vs_B1),
        "cpu_s_ratio_vs_B0": plain(result.claim.cpu_s_ratio_vs_B0),
        "of_it_a_token": plain(why.a_token),
        "of_it_by_fewer_tokens": plain(why.fewer_tokens),
        "both": plain(why.together),
        "people_are_shorter": plain(why.people),
        "counted": plain(why.counted),
        "cpu_s_ratio_vs_best_peer": None if best is None else best["cpu_s_ratio"],
        "counted_vs_best_peer": None if best is None else best["counted"],
        "best_peer": None if best is None else f"{best['name']}, {best['verdict']}",
        "beside_peers_vs_B1": None if b1 is None else b1["cpu_s_ratio"],
        "peers": rows,
        "dialogues": judged_on(result),
        "gate": [gate_row(check) for check in (result.final_quality.checks if result.final_quality else ())],
    }


def table() -> str:
    """Markdown: a line a row."""
    heads = [
        "original",
        "traffic",
        "budget",
        "CPU time a reply, B1 over winner",
        "a token",
        "by fewer tokens",
        "both, length as people's at most",
        "over the best peer, counted likewise",
        "gate",
    ]
    return markdown([heads, *(_cells(row) for row in _rows() if "verdict" in row)])


def tuned_table() -> str:
    """Markdown: the originals that learned the dialogues as long as their students did."""
    heads = ["original, fine-tuned", "CPU-s of learning", "a token, it over the winner", "a reply"]
    heads += ["gate, beside the original", "the winner beside it"]
    lines = []
    for row in _rows():
        if (own := row.get("fine_tuned")) is not None:
            verdicts = (own["against_the_original"], own["winner_against_it"])
            ratios = (number(own[figure], 1, "x") for figure in ("of_it_a_token", "cpu_s_ratio_it_over_winner"))
            lines.append([row["original"], f"{own['cpu_s']:,.0f}", *ratios, *map(_verdict, verdicts)])
    return markdown([heads, *lines])


def _verdict(judged: dict[str, Any]) -> str:
    reasons = ", ".join(judged["not_passed"])
    return f"{judged['verdict']}: {reasons}" if reasons else str(judged["verdict"])


def peers_table(row: dict[str, Any]) -> str:
    """Markdown: who met the winner of a row, the cheapest token first."""
    heads = ["toolkit", "a token, it over the winner", "a reply", "both, counted likewise", "nats a token", "gate"]
    others = sorted((p for p in row["peers"] if p["name"] != "winner"), key=lambda p: p["of_it_a_token"]["mean"])
    lines = [
        [
            peer["name"],
            *(number(peer[figure], 1, "x") for figure in ("of_it_a_token", "cpu_s_ratio")),
            number(peer["counted"], 1, "x") if peer["counted"] else "-",
            number(peer["nll_change"], 1) if peer["nll_change"] else "-",
            _verdict(peer),
        ]
        for peer in others
    ]
    return markdown([heads, *lines])


def _cells(row: dict[str, Any]) -> list[str]:
    peer, name = row["counted_vs_best_peer"], row["best_peer"]
    beside = f"{number(peer, 1, 'x')} ({name})" if peer else name or "none passes"
    return [
        row["original"],
        row["traffic"],
        f"{row['budget_s'] / 60:.0f} min",
        number(row["cpu_s_ratio_vs_B1"], 1, "x"),
        *(number(row[part], 1, "x") for part in ("of_it_a_token", "of_it_by_fewer_tokens", "counted")),
        beside if row["peers"] else "not asked",
        row["verdict"],
    ]


def _rows() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(RESULT.read_text(encoding="utf-8"))["rows"] if RESULT.exists() else []
    return rows


def _settings(args: argparse.Namespace) -> RunSettings:
    access = Access(chat_template=args.chat_template, run_only=args.run_only)
    return replace(RunSettings(), access=access, judge=args.judge, progress=say)


if __name__ == "__main__":
    main()
