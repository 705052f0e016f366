"""A line that is none is named by file and number; --skip-bad leaves out 1 % at most, and counts them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.command_line import halfwatt
from tests.support.hasty_optimize import SETTINGS
from tests.support.refusals import refused

GOOD = json.dumps(
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}
).encode()
LINES = {
    "not JSON": (b'{"messages": [', "not JSON"),
    "BOM": (b"\xef\xbb\xbf" + GOOD, "byte-order mark"),
    "NUL": (GOOD + b"\0", "NUL"),
    "not UTF-8": (b'{"messages": "\xff"}', "not UTF-8"),
    "50 MB": (b'{"messages": "' + b"a" * (50 << 20) + b'"}', "longer than 8 MB"),
}


@pytest.mark.parametrize("name", LINES)
def test_a_bad_line(name: str, tmp_path: Path, model: Path) -> None:
    bad, why = LINES[name]
    path = tmp_path / "d.jsonl"
    path.write_bytes(GOOD + b"\r\n" + bad + b"\n" + GOOD + b"\n")
    refused("measure", model, "-d", path, says=("1 of 3 rows", "d.jsonl:2: ", why), within=tmp_path)
    refused("measure", model, "-d", path, "--skip-bad", says=("at most 1%",), within=tmp_path)


def test_few_are_left_out_and_counted(tmp_path: Path, model: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_bytes(b"".join(bad + b"\n" + (GOOD + b"\r\n") * 99 for bad, _ in LINES.values()))
    done = halfwatt("measure", model, "-d", path, "--skip-bad", base=SETTINGS)
    assert done.returncode == 0, done.stderr
    assert f"{len(LINES)} faulty rows were left out" in done.stdout + done.stderr
