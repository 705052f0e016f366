"""The command line with windows too short to mean anything, for tests of everything but the numbers.

python -m tests.hasty optimize FOLDER -d chats.jsonl -o out
"""

from __future__ import annotations

from halfwatt import cli, pipeline, rungs, search
from halfwatt.workload import Plan

HASTY = Plan(min_blocks=2, max_blocks=2, window_s=0.02, prefill=False, idle_s=0.0, repeats=0)


def main() -> None:
    """Shorten what takes time, then be ``halfwatt``."""
    rungs.SWEEP = rungs.GLANCE = rungs.DUEL = search.FINAL = HASTY
    pipeline.MIN_CAP = 24
    cli.main()


if __name__ == "__main__":
    main()
