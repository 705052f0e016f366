"""The faults that take long: damaged GGUF files, kills at random moments, a disk that is really full.

    python -m benchmarks.faults gguf [--count 1000]    every mutant is read as what it is, or refused in one line
    python -m benchmarks.faults kills [--count 20]     SIGKILL while a search learns, rounds, measures and judges
    python -m benchmarks.faults disk                   on a tmpfs of 64 kB (needs the right to mount one)

Each prints a row for docs/faults.md, and exits with 1 where anything was not as it has to be.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support import taught_students as taught
from tests.support import tiny_models as tiny
from tests.support.mutants import mutants
from tests.support.whole_runs import ROOT, optimizing, read

RECIPE = """name = "taught"
[[step]]
use = "prune"
drop = 1
chosen = "middle"
[[step]]
use = "distil"
kind = "labels"
epochs = 12
[[step]]
use = "quantize"
bits = 8
"""


def main() -> int:
    """Do one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=sorted(FAULTS))
    parser.add_argument("--count", type=int)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return FAULTS[args.what](Path(folder), args.count)


def damaged_files(folder: Path, count: int | None) -> int:
    """Read them in one process whose memory is watched."""
    from halfwatt.core.errors import ModelError
    from halfwatt.core.settings import Access
    from halfwatt.formats.gguf import Gguf
    from halfwatt.models.chat_model import load

    count = count or 1000
    sound = (Gguf().write(load(tiny.folder(folder)), folder / "out").path / "model.gguf").read_bytes()
    path, outcomes, slowest_s = folder / "model.gguf", {"read": 0, "refused": 0, "neither": 0}, 0.0
    path.write_bytes(sound)
    Gguf().read(path, Access())
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number, mutant in enumerate(mutants(sound, count, header_b=16_000)):
        path.write_bytes(mutant)
        began_s = time.process_time()
        try:
            Gguf().read(path, Access())
            outcomes["read"] += 1
        except ModelError:
            outcomes["refused"] += 1
        except Exception as error:  # noqa: BLE001 - whatever else it is, is what is looked for
            outcomes["neither"] += 1
            print(f"mutant {number}: {type(error).__name__}: {str(error)[:200]}")
        slowest_s = max(slowest_s, time.process_time() - began_s)
    grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib) / 1024
    size = f"{count} mutants of {len(sound) / 1e6:.1f} MB"
    print(f"18 | {size}: {outcomes}; {grown_mb:.0f} MB more, {slowest_s:.1f} s at most")
    return int(outcomes["neither"] > 0)


def kills(folder: Path, count: int | None) -> int:
    """The same search, killed once at a moment drawn for each, and begun again."""
    count, told = count or 20, taught.dialogues()
    model, chats = taught.folder(folder, "llama", told, taught.School(layers=3)), taught.chats(folder, told)
    (folder / "recipe.toml").write_text(RECIPE)
    whole, whole_s = _searched(folder, model, chats, "whole")
    same, draw, moments = 0, random.Random(0), list[str]()
    for number in range(count):
        name, after_s = f"killed-{number}", draw.uniform(0.15, 0.95) * whole_s
        process = subprocess.Popen(_command(folder, model, chats, name), cwd=ROOT, start_new_session=True, **_QUIET)
        time.sleep(after_s)
        os.killpg(process.pid, signal.SIGKILL)
        moments.append(f"{after_s:.0f}" if process.wait() else f"{after_s:.0f} (it had ended)")
        again, _ = _searched(folder, model, chats, name)
        same += again == whole
        ended = "the same" if again == whole else f"{again}, not {whole}"
        print(f"killed after {moments[-1]} of {whole_s:.0f} s: {ended}")
    print(f"19 | {same} of {count} killed searches went on to the same verdicts, checks and figures of quality")
    return int(same < count)


_QUIET: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def _command(folder: Path, model: Path, chats: Path, out: str) -> list[str]:
    line = optimizing(model, chats, folder / out)
    return [sys.executable, "-m", "tests.support.hasty_optimize", *line, "--recipe", str(folder / "recipe.toml")]


def _searched(folder: Path, model: Path, chats: Path, out: str) -> tuple[list[Any], float]:
    """What its quality came to, to the last digit, and how long it took."""
    began_s = time.monotonic()
    done = subprocess.run(_command(folder, model, chats, out), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    result = read(folder / out)
    judged = [trial["quality"]["checks"] for trial in result["trials"]]
    return [result["final_quality"]["verdict"], judged, result["final_quality"]["checks"]], time.monotonic() - began_s


def full_disk(folder: Path, _count: int | None) -> int:
    """Steps whose product does not fit, with room for a part of it."""
    told = taught.dialogues()
    model, chats, disk = taught.folder(folder, "llama", told), taught.chats(folder, told), folder / "disk"
    disk.mkdir()
    failures = 0
    for verb in (["trim"], ["distil", "--kind", "labels"], ["quantize", "--bits", "8"]):
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], check=True)
        try:
            command = [sys.executable, "-m", "halfwatt.cli.main", verb[0], str(model), *verb[1:], "-d", str(chats)]
            done = subprocess.run(
                [*command, "-o", str(disk / "out")], cwd=ROOT, capture_output=True, text=True, check=False
            )
            told_it = [line for line in done.stderr.splitlines() if line.startswith("halfwatt: ")]
            good = done.returncode == 3 and len(told_it) == 1 and not (disk / "out").exists()
            failures += not good
            print(f"21 | {verb[0]}: exit {done.returncode}, {told_it}, left: {sorted(p.name for p in disk.iterdir())}")
        finally:
            subprocess.run(["umount", disk], check=True)
    return int(failures > 0)


FAULTS: dict[str, Callable[[Path, int | None], int]] = {"gguf": damaged_files, "kills": kills, "disk": full_disk}

if __name__ == "__main__":
    sys.exit(main())
