"""The real command on models that are not ours in shape: GPT-2 and Qwen2, built and taught in code.

    .venv/bin/python -m benchmarks.second_models --out out/second

Each has about a million parameters, learns 720 made-up smart-home dialogues for a few minutes, and then goes through
``halfwatt optimize`` and ``halfwatt verify`` as a user would type them. The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support import taught_students as taught
from tests.support.taught_students import School
from tests.support.tiny_models import Arch

ARCHS: tuple[Arch, ...] = ("gpt2", "qwen2")
ROOMS = (*taught.ROOMS, "attic", "cellar", "study", "porch", "nursery", "pantry", "library", "workshop", "guest room",
         "dining room", "laundry", "corridor", "balcony", "greenhouse", "office")  # fmt: skip
THINGS = (*taught.THINGS, "radio", "blind", "camera", "alarm", "oven", "pump", "television")
SCHOOL = School(width=128, layers=4, steps=500, lr=2e-3)


def main() -> None:
    """Teach, optimize, verify and print a row each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/second"))
    args = parser.parse_args()
    print(json.dumps([_row(arch, args.out / arch) for arch in ARCHS]))


def _row(arch: Arch, home: Path) -> dict[str, Any]:
    model = home / f"taught-{arch}"
    dialogues = taught.dialogues(ROOMS, THINGS)
    if not model.exists():
        home.mkdir(parents=True, exist_ok=True)
        taught.folder(home, arch, dialogues, SCHOOL)
    chats = taught.chats(home, dialogues)
    exit_code = _halfwatt(
        "optimize", str(model), "--dialogues", str(chats), "--max-loss", "1%", "-o", str(home / "out")
    )
    result = json.loads((home / "out" / "result.json").read_text())
    claim, parity = result["claim"], result["baselines"]["B1"]["artifact"]["parity"]
    row = {
        "model": arch,
        "exit": exit_code,
        "verify_exit": _halfwatt("verify", str(home / "out" / "result.json")),
        "verdict": claim["verdict"],
        "about": claim["about"],
        "cpu_s_ratio_vs_B0": claim["cpu_s_ratio_vs_B0"],
        "cpu_s_ratio_vs_B1": claim["cpu_s_ratio_vs_B1"],
        "gate": {t["name"]: t["quality"]["verdict"] for t in result["trials"] if t["quality"]},
        "f16_parity": parity,
    }
    print(json.dumps(row, indent=1))
    return row


def _halfwatt(*arguments: str) -> int:
    return subprocess.run([sys.executable, "-m", "halfwatt.cli.main", *arguments], check=False).returncode


if __name__ == "__main__":
    main()
