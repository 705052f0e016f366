"""Each toolkit in an environment of its own, made from its list of requirements; programs that run there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from halfwatt.core.files import sha256_file
from halfwatt.core.types import Progress

ROOT = Path(__file__).parents[2]
UNWANTED = "torchvision"  # what is published is built for CUDA, and breaks transformers beside a torch for processors
REQUIREMENTS = Path(__file__).parent / "requirements"


def interpreter(toolkit: str, at: Path, progress: Progress) -> Path:
    """The toolkit's Python. Its environment is made where there is none for its list as it stands."""
    requirements = REQUIREMENTS / f"{toolkit}.txt"
    folder = at / f"{toolkit}-{sha256_file(requirements)[:8]}"
    ready = folder / ".ready"
    if not ready.exists():
        progress(f"{toolkit}: making its environment")
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([folder / "bin" / "pip", "install", "--quiet", "-r", requirements], check=True)
        subprocess.run([folder / "bin" / "pip", "uninstall", "--quiet", "--yes", UNWANTED], check=True)
        ready.touch()
    return (folder / "bin" / "python").absolute()


def program(python: Path, toolkit: str, *arguments: str) -> tuple[str, ...]:
    """The toolkit's module in this package as a command that runs in its environment, with this project beside it."""
    return (
        "env",
        f"PYTHONPATH={ROOT}:{ROOT / 'src'}",
        str(python),
        "-P",
        "-m",
        f"benchmarks.peers.{toolkit}",
        *arguments,
    )


def run_json(command: tuple[str, ...]) -> dict[str, Any]:
    """Run it; what it says in its last line, which is JSON.

    Raises:
        CalledProcessError: it failed.
    """
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer
