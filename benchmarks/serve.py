"""Concurrent conversations with our server and with llama.cpp's own: the same file, the same questions, side by side.

    .venv/bin/python -m benchmarks.serve ARTIFACT --dialogues FILE --out OUT [--users 1 4 16 64] [--seconds 20]

Each user asks the turns of one dialogue after the other, with the replies that came, streamed and greedy. The CPU time
is the server process's own, from the first question to the last token; a block of one server follows a block of the
other. llama.cpp's server is built from the sources that set-up compiles (benchmarks/llama_server.py). Last line: JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from statistics import fmean
from urllib.request import urlopen

import numpy as np
import psutil

from benchmarks.ladder import markdown, plain, say
from benchmarks.llama_server import built
from halfwatt.core.statistics import log_ratio
from halfwatt.dialogues.dialogue import Dialogue
from halfwatt.dialogues.readers import read_dialogues
from halfwatt.formats.artifact import GGUF_FILE
from halfwatt.runtimes.base import read_operating_point

SLOTS, CONTEXT, LONGEST = 16, 1024, 96  # replies at once, tokens of a conversation, of a reply


@dataclass
class Server:
    """A server that runs."""

    name: str
    process: psutil.Process
    port: int

    @property
    def cpu_s(self) -> float:
        """Of it and of what it started."""
        times = [each.cpu_times() for each in (self.process, *self.process.children(recursive=True))]
        return float(sum(t.user + t.system for t in times))


@dataclass
class Block:
    """What a load came to."""

    cpu_s: float
    wall_s: float
    replies: int
    tokens: int
    first_s: list[float] = field(repr=False)
    faults: int = 0
    joules: float | None = None  # as the replies say; None = they do not
    memory_b: int = 0


@contextmanager
def running(name: str, command: Sequence[object], port: int, log: Path) -> Iterator[Server]:
    """Until it answers, and while the block runs."""
    with log.open("w") as lines, subprocess.Popen(list(map(str, command)), stdout=lines, stderr=lines) as process:
        try:
            for _ in range(600):
                try:
                    with urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                        break
                except OSError:
                    if process.poll() is not None:
                        sys.exit(f"{name} ended: {log.read_text()[-500:]}")
                    time.sleep(0.2)
            yield Server(name, psutil.Process(process.pid), port)
        finally:
            process.terminate()


async def replied(port: int, messages: list[dict[str, str]]) -> tuple[str, int, float, float | None]:
    """One streamed reply: its text, tokens, seconds to its first piece, and joules where they are told."""
    body = {"messages": messages, "stream": True, "stream_options": {"include_usage": True}}
    raw = json.dumps(body | {"temperature": 0, "max_tokens": LONGEST}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(raw)}\r\n"
    began_s = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"{head}Content-Type: application/json\r\nConnection: close\r\n\r\n".encode() + raw)
        text, tokens, first_s, joules = "", 0, 0.0, None
        while line := await reader.readline():
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            piece = event["choices"][0]["delta"].get("content") if event.get("choices") else None
            if piece:
                first_s = first_s or time.monotonic() - began_s
                text += piece
            if event.get("usage"):
                tokens = event["usage"]["completion_tokens"]
                joules = event["usage"].get("energy", {}).get("joules")
    finally:
        writer.close()
    return text, tokens, first_s, joules


async def load(server: Server, dialogues: Sequence[Dialogue], users: int, seconds: float) -> Block:
    """So many users for so long; what was begun is ended."""
    block, joules = Block(0.0, 0.0, 0, 0, []), list[float | None]()
    end_s = time.monotonic() + seconds
    turn = cycle(dialogues)

    async def user() -> None:
        while time.monotonic() < end_s:
            messages: list[dict[str, str]] = []
            for message in next(turn).messages:
                if message.role == "assistant" or time.monotonic() >= end_s:
                    continue
                messages.append({"role": message.role, "content": message.content})
                if message.role != "user":
                    continue
                text, tokens, first_s, cost = await replied(server.port, messages)
                if not tokens:
                    block.faults += 1
                    break
                messages.append({"role": "assistant", "content": text})
                block.replies, block.tokens = block.replies + 1, block.tokens + tokens
                block.first_s.append(first_s)
                joules.append(cost)

    cpu_s, began_s = server.cpu_s, time.monotonic()
    await asyncio.gather(*(user() for _ in range(users)))
    block.cpu_s, block.wall_s = server.cpu_s - cpu_s, time.monotonic() - began_s
    told = [cost for cost in joules if cost is not None]
    block.joules = sum(told) if joules and len(told) == len(joules) else None
    block.memory_b = server.process.memory_info().rss
    return block


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--dialogues", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--users", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--blocks", type=int, default=5)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    program = built(arguments.out, say)
    dialogues = read_dialogues(arguments.dialogues, split="tune").dialogues
    threads = str(read_operating_point(arguments.artifact).threads or 1)
    gguf, ports = arguments.artifact / GGUF_FILE, (18080, 18081)
    ours = [sys.executable, "-m", "halfwatt.cli.main", "serve", arguments.artifact, "--port", ports[0]]
    ours += ["--users", SLOTS, "--queue", 64, "--context", CONTEXT]
    theirs = [program, "-m", gguf, "--port", ports[1], "-np", SLOTS, "-c", SLOTS * CONTEXT, "-t", threads]
    theirs += ["-tb", threads, "--jinja", "--no-webui", "-ngl", 0]
    rows = []
    with ExitStack() as stack:
        servers = [
            stack.enter_context(running(name, command, port, arguments.out / f"{name}.log"))
            for name, command, port in zip(("halfwatt", "llama-server"), (ours, theirs), ports, strict=True)
        ]
        for server in servers:
            asyncio.run(load(server, dialogues, 4, 3.0))  # warm
        for users in arguments.users:
            blocks: dict[str, list[Block]] = {server.name: [] for server in servers}
            for number_ in range(arguments.blocks):
                for server in servers if number_ % 2 else reversed(servers):
                    start = (number_ * 97) % len(dialogues)
                    asked = [*dialogues[start:], *dialogues[:start]]
                    blocks[server.name].append(asyncio.run(load(server, asked, users, arguments.seconds)))
                    say(f"{users} users, {server.name}: {blocks[server.name][-1]}")
            rows.append({"users": users} | _row(blocks))
    print(markdown(_table(rows)))
    print(json.dumps({"artifact": arguments.artifact.name, "threads": int(threads), "rows": rows}))


def _row(blocks: dict[str, list[Block]]) -> dict[str, object]:
    ours, theirs = blocks.values()
    a, b = ([block.cpu_s / block.replies for block in each] for each in (ours, theirs))
    c, d = ([block.cpu_s / block.tokens for block in each] for each in (ours, theirs))
    row: dict[str, object] = {"cpu_s_ratio_a_reply": plain(log_ratio(a, b)), "a_token": plain(log_ratio(c, d))}
    for name, each in blocks.items():
        first_s = [s for block in each for s in block.first_s]
        row[name] = {
            "cpu_s_a_reply": fmean(block.cpu_s / block.replies for block in each),
            "replies_a_second": fmean(block.replies / block.wall_s for block in each),
            "tokens_a_reply": fmean(block.tokens / block.replies for block in each),
            "first_token_s": [float(np.percentile(first_s, q)) for q in (50, 95)],
            "joules_a_reply": _joules(each),
            "faults": sum(block.faults for block in each),
            "memory_b": [block.memory_b for block in each],
        }
    return row


def _joules(blocks: Sequence[Block]) -> float | None:
    told = [block.joules / block.replies for block in blocks if block.joules is not None]
    return fmean(told) if len(told) == len(blocks) else None


def _table(rows: Sequence[dict[str, object]]) -> list[list[str]]:
    table = [
        ["users", "server", "CPU-ms a reply", "ours over theirs", "replies/s", "first token p50, p95, ms", "tokens"]
    ]
    for row in rows:
        for name in ("halfwatt", "llama-server"):
            own = row[name]
            assert isinstance(own, dict)
            ratio = row["cpu_s_ratio_a_reply"]
            assert isinstance(ratio, dict)
            beside = f"{ratio['mean']:.2f}x [{ratio['lo']:.2f}, {ratio['hi']:.2f}]" if name == "halfwatt" else ""
            first = ", ".join(f"{1000 * s:.3g}" for s in own["first_token_s"])
            cells = (f"{1000 * own['cpu_s_a_reply']:.3g}", beside, f"{own['replies_a_second']:.3g}", first)
            table.append([str(row["users"]), name, *cells, f"{own['tokens_a_reply']:.3g}"])
    return table


if __name__ == "__main__":
    main()
