"""Whole runs in processes of their own, hasty where they measure: what several files of tests begin with."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def halfwatt(*arguments: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    module = "tests.support.hasty_optimize" if arguments[0] == "optimize" else "halfwatt.cli.main"
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, input=stdin, timeout=240, check=False)


def optimizing(model: Path, chats: Path, out: Path) -> list[str]:
    return ["optimize", str(model), "-d", str(chats), "--max-loss", "40%", "-o", str(out), "--json"]


def read(out: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((out / "result.json").read_text())
    return result
