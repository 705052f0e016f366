"""What is printed beside results: talk on stdout, progress and complaints on stderr; and what the environment holds."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any


def json_line(value: Any) -> None:
    """A JSON document on a line of its own."""
    print(json.dumps(value), flush=True)


def stream(piece: Any) -> None:
    """Text as it comes; the figures of the finished reply on a line of their own."""
    if isinstance(piece, str):
        print(piece, end="", flush=True)
    elif isinstance(piece, dict) and "line" in piece:
        print(f"\n  [{piece['line']}]", flush=True)


def prompted_lines(quiet: bool) -> Iterator[str]:
    """What is typed, up to an empty line or the end."""
    with suppress(EOFError):
        while (line := input("" if quiet else "you> ")).strip():
            yield line


def progress(text: str) -> None:
    """One line on a terminal, rewritten; plain lines elsewhere. Called between windows only."""
    live = sys.stderr.isatty()
    print(f"\r\x1b[2K{text[:100]}" if live else text, end="" if live else "\n", file=sys.stderr, flush=True)


def api_key() -> str | None:
    """What clients of a server have to send; an empty one is none."""
    return os.environ.get("HALFWATT_API_KEY", "").strip() or None


def complain(line: str) -> None:
    """One line, whatever it was."""
    print(f"halfwatt: {' '.join(line.split())}", file=sys.stderr)
