"""What halfwatt itself takes, an old build and this one side by side: CPU-seconds and peak memory of whole commands.

    git worktree add /tmp/old 0817b85
    python -m benchmarks.speed /tmp/old MODEL chats.jsonl

Commands are run alternately, old and new, each in a process of its own; CPU-seconds are theirs and their children's,
which other work on the machine changes less than seconds. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

NEW = Path(__file__).parents[1]
REPLIES = """
import sys
from dataclasses import replace
from pathlib import Path
from halfwatt.core.settings import Access, RequestSettings
from halfwatt.dialogues.readers import read_dialogues
from halfwatt.evaluate.replies import generate_replies
from halfwatt.evaluate.requests import ChatFormat, make_workload
from halfwatt.runtimes.servable import servable
model, chats, cache = sys.argv[1:]
spec = servable(model, Access(dtype="fp16"), Path(cache), "llamacpp")
whole = read_dialogues(Path(chats), split="tune")
some = whole.subset(whole.dialogues[:60])
generate_replies(spec, make_workload(some, ChatFormat.of_artifact(spec.artifact), RequestSettings()).requests())
"""


def cost(tree: Path, arguments: list[str]) -> dict[str, float]:
    """CPU-seconds and peak MiB of one Python program of a build."""
    environment = os.environ | {"PYTHONPATH": f"{tree / 'src'}:{tree}"}
    process = subprocess.Popen([sys.executable, *arguments], env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, arguments
    return {"cpu_s": round(usage.ru_utime + usage.ru_stime, 1), "peak_mib": usage.ru_maxrss // 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("model")
    parser.add_argument("dialogues")
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in filter(None, args.only.split(",")) if args.only else ("replies", "prune", "rtn", "gptq"):
            row: dict[str, object] = {"what": name}
            for build, tree in (("old", args.old), ("new", NEW)):
                out = f"{folder}/{name}-{build}"
                verbs = {
                    "replies": ["-c", REPLIES, args.model, args.dialogues, out],
                    "prune": ["prune", args.model, "--ffn", "0.5", "--drop", "4", "-d", args.dialogues, "-o", out],
                    "rtn": ["quantize", args.model, "--bits", "4", "-o", out],
                    "gptq": [
                        "quantize",
                        args.model,
                        "--bits",
                        "4",
                        "--method",
                        "gptq",
                        "-d",
                        args.dialogues,
                        "-o",
                        out,
                    ],
                }
                program = verbs[name] if name == "replies" else ["-m", "halfwatt.cli.main", *verbs[name]]
                row[build] = cost(tree, program)
            rows.append(row)
            print(row, flush=True)
    print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
