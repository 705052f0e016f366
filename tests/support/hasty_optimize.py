"""The command line with windows too short to mean anything, for tests of everything but the numbers.

python -m tests.support.hasty_optimize optimize FOLDER -d chats.jsonl -o out
"""

from __future__ import annotations

from halfwatt.cli.main import main as command_line
from halfwatt.evaluate import requests
from halfwatt.evaluate.energy_protocol import MeasurePlan
from halfwatt.search import candidate, optimize

HASTY = MeasurePlan(min_blocks=2, max_blocks=2, window_s=0.02, prefill=False, idle_s=0.0, repeats=0)


def main() -> None:
    """Shorten what takes time, then be ``halfwatt``."""
    candidate.SWEEP = candidate.SCREEN = candidate.PAIRED = optimize.FINAL = HASTY
    requests.MIN_CAP = 24
    command_line()


if __name__ == "__main__":
    main()
