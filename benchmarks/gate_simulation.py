"""How often the gate's newer rules pass a candidate that is exactly at its margin, and one that is equal; simulated.

    .venv/bin/python -m benchmarks.gate_simulation [--runs 2000]

Each run draws one set of dialogues and asks the gate's own functions. A rule that accepts either of two measures is
tried where both are at their margins at once, which is the worst for it. The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from halfwatt.core.settings import Margins
from halfwatt.evaluate import gate
from halfwatt.evaluate.records import Facts, GateCheck, ScoredReply, TeacherScore

M = Margins()
Draw = Callable[[np.random.Generator, int], GateCheck]
SIZES = (100, 150, 200, 400)


@dataclass(frozen=True)
class Case:
    """A candidate, and how often it may pass."""

    rule: str
    candidate: str
    draw: Draw
    null: bool  # at the margin: may pass in 5 % of runs; else it is equal


def facts(rng: np.random.Generator, n: int, worse: float) -> GateCheck:
    """G6. Three values a reply; the original lacks 30 %, every fifth reply differs in what it lacks."""
    groups, known = [], []
    for i in range(n):
        values = tuple(f"{1000 * k + i % 997}" for k in range(1, 4))
        lacks = rng.random() < 0.3
        own = lacks if rng.random() > 0.2 else rng.random() < 0.3
        own = own or rng.random() < worse / 0.7
        replies = [_reply(i, " ".join(() if missing else values)) for missing in (lacks, own)]
        groups.append([(replies[0], replies[1])])
        known.append(Facts(f"d{i}", 1, values, values))
    return gate._facts(groups, known, M)


def fits(rng: np.random.Generator, n: int, worse: float, people: float, plain: bool, asked: float = 1.0) -> GateCheck:
    """G7. The judge takes 10 % (plainly: 3 %) of the original's replies for another dialogue's, of people's ``people``
    more; hard dialogues are hard for all. asked: share of the dialogues that the original answered."""
    base, margin = (0.03, M.plain_misfit) if plain else (0.10, M.misfit)
    worst = base + max(0.0, people)
    rates = (worst + worse * margin, base, base + people)
    hard = rng.gamma(2.0, 0.5, n)
    shares = tuple((rng.random(n) < rate * hard).astype(float) for rate in rates)
    first = np.arange(n) < asked * n
    return gate._beside_the_worse("", (shares[0], shares[1][first], shares[2]), first, margin)


def length(rng: np.random.Generator, n: int, ratio: float, people: float) -> GateCheck:
    """G4. People need ``people`` times the original's length, the candidate ``ratio`` times the shorter of the two."""
    shared, *own = (rng.normal(0, sd, n) for sd in (0.4, 0.3, 0.3, 0.3))
    means = (200.0, 200.0 * people, 200.0 * ratio * min(1.0, people))
    sizes = [np.maximum(1, np.round(mean * np.exp(shared + noise))) for mean, noise in zip(means, own, strict=True)]
    groups = []
    for i, (ref, human, cand) in enumerate(zip(*sizes, strict=True)):
        replies = [_reply(i, "x" * int(size), "y" * int(human)) for size in (ref, cand)]
        groups.append([(replies[0], replies[1])])
    return gate._length_beside_people(groups, M, gate._length(groups, M))


def stopping(rng: np.random.Generator, n: int, elsewhere: float, further: float) -> GateCheck:
    """G2. P(EOS) elsewhere is ``elsewhere`` times the original's; people's ends are ``further`` nats less likely."""
    ref = 0.3 * rng.gamma(4.0, 0.25, n)  # summed P(EOS) elsewhere, of a reply
    cand = ref * (elsewhere + rng.normal(0, 0.15, n))
    at_end = -0.5 - further + cand - ref + rng.normal(0, 0.3, n)
    scores = [
        TeacherScore(f"d{i}", 30, 30.0, 30.0, 1, -0.5, end, 29, a, b, 0.0, 0.0, 30, None, a, b)
        for i, (end, a, b) in enumerate(zip(at_end.tolist(), ref.tolist(), cand.tolist(), strict=True))
    ]
    return gate.teacher_checks(scores, M)[2]


def _reply(dialogue: int, text: str, human: str = "") -> ScoredReply:
    return ScoredReply(f"d{dialogue}", 1, None, text, max(1, len(text) // 4), True, 10_000, human)


CASES = (
    Case(
        "G2", "P(EOS) elsewhere 1.2x, people's ends 0.1 nats less likely", lambda r, n: stopping(r, n, 1.2, 0.1), True
    ),
    Case("G2", "equal", lambda r, n: stopping(r, n, 1.0, 0.0), False),
    Case("G4", "0.90x both, who are alike", lambda r, n: length(r, n, 0.9, 1.0), True),
    Case("G4", "0.90x people, who need 0.9x", lambda r, n: length(r, n, 0.9, 0.9), True),
    Case("G4", "0.90x people, who need 0.8x", lambda r, n: length(r, n, 0.9, 0.8), True),
    Case("G4", "0.90x people, who need 0.3x", lambda r, n: length(r, n, 0.9, 0.3), True),
    Case("G4", "as the original, people alike", lambda r, n: length(r, n, 1.0, 1.0), False),
    Case("G4", "as people, who need 0.3x", lambda r, n: length(r, n, 1.0, 0.3), False),
    Case("G6", "5 points more values lacking", lambda r, n: facts(r, n, M.facts), True),
    Case("G6", "equal", lambda r, n: facts(r, n, 0.0), False),
    Case("G7", "5 points over both, who are alike", lambda r, n: fits(r, n, 1.0, 0.0, False), True),
    Case("G7", "5 points over people, 3 over the original", lambda r, n: fits(r, n, 1.0, 0.03, False), True),
    Case("G7", "5 points over both, the original asked in a quarter", lambda r, n: fits(r, n, 1, 0, False, 0.25), True),
    Case("G7", "equal to both", lambda r, n: fits(r, n, 0.0, 0.0, False), False),
    Case("G7 plainly", "2 points over both, who are alike", lambda r, n: fits(r, n, 1.0, 0.0, True), True),
    Case(
        "G7 plainly",
        "2 points over both, the original asked in a quarter",
        lambda r, n: fits(r, n, 1, 0, True, 0.25),
        True,
    ),
    Case("G7 plainly", "equal to both", lambda r, n: fits(r, n, 0.0, 0.0, True), False),
    Case(
        "G7 plainly", "equal to both, the original asked in a quarter", lambda r, n: fits(r, n, 0, 0, True, 0.25), False
    ),
)


def passes(case: Case, n: int, runs: int) -> float:
    """Share of runs on ``n`` dialogues that pass."""
    rng = np.random.default_rng(n)
    return sum(case.draw(rng, n).verdict == "PASS" for _ in range(runs)) / runs


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000)
    runs = parser.parse_args().runs
    rows = []
    print(f"| rule | candidate | may pass | {' | '.join(map(str, SIZES))} |\n|---|---|---|{'---|' * len(SIZES)}")
    for case in CASES:
        shares = [passes(case, n, runs) for n in SIZES]
        may = "5 %" if case.null else "yes"
        print(f"| {case.rule} | {case.candidate} | {may} | {' | '.join(f'{s:.1%}' for s in shares)} |", flush=True)
        rows.append({"rule": case.rule, "candidate": case.candidate, "null": case.null, "passes": shares})
    print(json.dumps({"runs": runs, "dialogues": SIZES, "rows": rows}))


if __name__ == "__main__":
    main()
