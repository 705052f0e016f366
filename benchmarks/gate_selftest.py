"""The gate's self-test at full size: every damaged copy of the demo model, and the model against itself.

    .venv/bin/python -m benchmarks.gate_selftest [--dialogues 360 --seeds 20]

Runs on the tune split; the test split stays sealed. "Against itself" is made hard: both sides have the same weights,
but the candidate's sampled replies are drawn with other seeds, so that every statistic has its real noise. The last
line of the output is JSON. How often a candidate at a margin passes: ``benchmarks/gate_simulation.py``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from halfwatt import demo
from halfwatt.core.settings import RequestSettings
from halfwatt.dialogues.dialogue import DialogueSet
from halfwatt.evaluate import examine, requests
from halfwatt.evaluate.records import QualityReport, ScoredReply
from halfwatt.evaluate.replies import generate_replies
from halfwatt.evaluate.requests import ChatFormat, ReplyRequest
from halfwatt.models.chat_model import load
from tests.support import damage as damage
from tests.support.damage import Bench


def main() -> None:
    """Judge everything and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dialogues", type=int, default=360)
    parser.add_argument("--seeds", type=int, default=20)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = _bench(args.dialogues, Path(folder))
        rows = [_row(broken.__name__, broken(bench)) for broken, _ in damage.DAMAGES]
        rows.append(_row(damage.parrots_the_tenth.__name__, damage.parrots_the_tenth(bench)))  # must not pass
        rows.append(_row("itself, same seeds", damage.itself(bench)))
        rows.append(_row("itself in float32", damage.in_float32(bench)))
        others = [_against_itself(bench, seed) for seed in range(1, args.seeds + 1)]
    verdicts = Counter(report.verdict for report in others)
    blocking = Counter(c.layer for r in others for c in r.checks if c.verdict != "PASS")
    print(f"itself, other seeds: {dict(verdicts)} of {len(others)}; not passed: {dict(blocking)}")
    print(json.dumps({"damages": rows, "itself_other_seeds": verdicts, "not_passed": blocking}))


def _bench(count: int, work: Path) -> Bench:
    model = load(demo.path())
    tune = demo.dialogues("tune")
    some = DialogueSet.of(tune.dialogues[:count], split="tune", licence=tune.licence)
    workload = requests.make_workload(some, ChatFormat.of_model(model), RequestSettings())
    start_s = time.monotonic()
    bench = Bench.of(model, workload, work)
    print(f"{len(some)} dialogues, {len(bench.replies)} replies, {time.monotonic() - start_s:.0f} s", file=sys.stderr)
    return bench


def _against_itself(bench: Bench, seed: int) -> QualityReport:
    """Replies of the reference under other seeds, passed off as a candidate's."""
    reseeded = [[_other(prompt, seed) for prompt in rows] for rows in bench.workload.requests()]
    replies = generate_replies(bench.reference, reseeded)
    inputs = examine.examine(bench.yardstick, bench.reference, bench.workload, lambda _: None)
    report = bench.report(replace(inputs, replies_cand=tuple(map(_as_paired, replies, bench.replies))))
    _row(f"itself, seeds {seed}", report)
    return report


def _other(prompt: ReplyRequest, seed: int) -> ReplyRequest:
    if prompt.seed is None:
        return prompt
    return replace(prompt, sampling=replace(prompt.sampling, seed=prompt.sampling.seed + 7_000_003 * seed))


def _as_paired(reply: ScoredReply, partner: ScoredReply) -> ScoredReply:
    return replace(reply, seed=partner.seed)


def _row(name: str, report: QualityReport) -> dict[str, Any]:
    failing = list(damage.caught_by(report))
    unsure = sorted({c.layer for c in report.checks if c.verdict == "INCONCLUSIVE"})
    print(f"{name:22} {report.verdict:13} FAIL in {','.join(failing) or '-':15} undecided {','.join(unsure) or '-'}")
    return {"model": name, "verdict": report.verdict, "fail": failing, "undecided": unsure}


if __name__ == "__main__":
    main()
