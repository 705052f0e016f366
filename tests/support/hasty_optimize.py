"""The command line with windows too short to mean anything, for tests of everything but the numbers.

python -m tests.support.hasty_optimize optimize FOLDER -d chats.jsonl -o out
"""

from __future__ import annotations

from dataclasses import replace

from halfwatt.cli.main import main
from halfwatt.core.settings import MeasurePlan, Protocol, RequestSettings, RunSettings

HASTY = MeasurePlan(min_blocks=2, max_blocks=2, window_s=0.02, prefill=False, idle_s=0.0, repeats=0)
PAIRED = replace(HASTY, idle_s=0.001)  # another plan than the screen's: the same order would be found on disk
SETTINGS = RunSettings(protocol=Protocol(HASTY, HASTY, PAIRED, HASTY, HASTY), requests=RequestSettings(min_cap=24))

if __name__ == "__main__":
    main(SETTINGS)
