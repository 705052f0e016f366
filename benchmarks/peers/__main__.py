"""halfwatt's winner against other toolkits' best: same model, dialogues and gate, in one interleaved run.

    python -m benchmarks.peers --winner OUT/winner --out OUT/peers

OUT/winner is the folder that ``halfwatt optimize demo`` delivered. Every peer is served at the operating point that is
the best for it, found as for any candidate. Figures are of the demo's test split, which none of them was chosen by. A
peer's file is not compared with its maker's network (gate G0), only its answers with the original's (G1 to G5). Writes
benchmarks/peers/result.json; interrupted, the same command goes on.
"""

from __future__ import annotations

import argparse
import json
from contextlib import closing
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.ladder import plain, say
from benchmarks.peers.llamacpp import KINDS, quantized
from halfwatt import accounting, demo, pipeline
from halfwatt.artifacts import read_artifact, read_operating_point
from halfwatt.chat_model import load
from halfwatt.claims import energy_ratio
from halfwatt.dialogue import SealedSplit
from halfwatt.files import locked, turn, write_atomic
from halfwatt.generation import generate
from halfwatt.journal import Journal
from halfwatt.pipeline import Speech
from halfwatt.quality import likelihood_among, overall, statistics
from halfwatt.recipe import Recipe
from halfwatt.records import GateCheck, OperatingPoint, QualityInputs, Trial
from halfwatt.rungs import Arena, Job, arm, tuned
from halfwatt.workload import Plan, Run, instruments, measure

RESULT = Path(__file__).parent / "result.json"
PLAN = Plan(min_blocks=7, max_blocks=30, limit_s=300.0, prefill=False)


def main() -> None:
    """Make, measure, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--winner", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    model = load(demo.path())
    test = demo.dialogues("test")
    with locked(given.out), turn("cpu", say), closing(instruments("cpu")) as tools:
        sealed = SealedSplit(test, given.out / "unused.json")
        job = Job(model, demo.dialogues("tune"), sealed, given.out, tools, progress=say)
        winner = Trial(
            "winner", (), "done", None, read_artifact(given.winner), read_operating_point(given.winner), None, None
        )
        assert winner.artifact is not None
        journal = Journal(given.out / "stages", {"model": model.sha256, "winner": winner.artifact.sha256})
        seen = pipeline.traffic(test, Speech.by(model))
        exported = pipeline.build(model, Recipe("B1"), seen.dialogues, given.out / "artifacts", "cpu")
        arena = Arena(job, journal, Trial("B1", (), "done", None, exported, OperatingPoint(), None, None), seen)
        arena = replace(arena, b1=served(arena, arena.b1))
        everyone = [*peers(arena), arena.b1, winner]
        arms = [arm(job, trial) for trial in everyone]
        run = journal.once("duel", Run, lambda: measure(arms, seen.dialogues, seen.greedy, PLAN, tools, say))
        rows = [row(arena, trial, run) for trial in everyone]
    write_atomic(RESULT, (json.dumps({"peers": rows[:-1], "winner": rows[-1]}, indent=1) + "\n").encode())
    print(json.dumps({"peers": [{"name": r["name"], "verdict": r["verdict"], **r["cpu_s_ratio"]} for r in rows[:-1]]}))


def peers(arena: Arena) -> list[Trial]:
    """Each made by its own tool, and served as is best for it."""
    original = arena.b1.artifact
    assert original is not None
    made = []
    for kind in KINDS:
        name = f"llama.cpp {kind}"
        say(f"{name}: making it")
        artifact = quantized(original, kind, arena.job.out / "artifacts" / kind.lower())
        made.append(served(arena, Trial(name, (), "done", None, artifact, OperatingPoint(), None, None)))
    return made


def served(arena: Arena, trial: Trial) -> Trial:
    """At its best operating point."""
    return tuned(arena.job, arena.journal, Recipe(trial.name).slug, trial, arena.traffic)


def row(arena: Arena, trial: Trial, run: Run) -> dict[str, Any]:
    """Its cost over the winner's, and what the gate says."""
    artifact, own = trial.artifact, accounting.measurement(trial.name, run.windows, run.meter)
    assert artifact is not None
    itself = trial.name == "winner"
    checks = [] if trial.name == "B1" else judged(arena, trial)
    failed = [f"{c.layer} {c.name}" for c in checks if c.verdict != "PASS"]
    change = likelihood_among(checks)
    figure = accounting.cpu_s_per_reply
    return {
        "name": trial.name,
        "version": version("llama-cpp-python"),
        "precision": artifact.precision,
        "weights_read_b": artifact.weights_read_b,
        "verdict": "reference" if trial.name == "B1" else overall([c.verdict for c in checks]),
        "not_passed": failed,
        "nll_change": plain(None if change is None else change.estimate),
        "cpu_s_per_reply": plain(own.cpu_s_per_reply),
        "cpu_s_ratio": None if itself else plain(accounting.ratio(trial.name, "winner", run.windows, figure)),
        "energy_ratio": None if itself else plain(energy_ratio(trial.name, "winner", run)),
        "energy_kind": own.kind,
    }


def judged(arena: Arena, trial: Trial) -> list[GateCheck]:
    """G1 to G5 against the original, on the split that was measured."""

    def inputs() -> QualityInputs:
        reference, own, seen = arm(arena.job, arena.b1).spec, arm(arena.job, trial).spec, arena.traffic
        asked = pipeline.reference_replies(reference, seen, arena.journal, "test", say)
        replies = generate(own, seen.prompts(), say, f"{trial.name}: replies")
        proof = reference.artifact.parity
        assert proof is not None  # the original's own: G1 to G5 do not look at it
        return QualityInputs(proof, pipeline.teacher_forced(reference, own, seen, say), asked, replies)

    found = arena.journal.once(f"quality-{Recipe(trial.name).slug}", QualityInputs, inputs)
    return statistics(found, arena.job.margins, arena.job.model.tokenizer.special_tokens)


if __name__ == "__main__":
    main()
