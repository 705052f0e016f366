"""Weights in a file that is torn or lies about itself: one line, at once, without taking what it claims to need."""

from __future__ import annotations

import json
import resource
import struct
import time
from pathlib import Path

import pytest

from tests.support.refusals import refused

HEADERS: dict[str, tuple[bytes, bytes]] = {
    "header of 2^63": (b"", b""),
    "overlap": (
        b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"b":{"dtype":"F32","shape":[4],"data_offsets":[8,24]}}',
        b"x" * 24,
    ),
    "hole": (
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[16,24]}}',
        b"x" * 24,
    ),
    "twice": (
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}',
        b"x" * 16,
    ),
    "larger than the file": (
        json.dumps({"a": {"dtype": "F32", "shape": [1 << 34], "data_offsets": [0, 1 << 36]}}).encode(),
        b"",
    ),
}


@pytest.mark.parametrize("what", ["torn", *HEADERS])
def test_it_is_told_at_once(what: str, tmp_path: Path, model: Path, chats: Path) -> None:
    weights = model / "model.safetensors"
    if what == "torn":
        weights.write_bytes(weights.read_bytes()[:5000])
    else:
        header, data = HEADERS[what]
        size = 1 << 63 if what.startswith("header") else len(header)
        weights.write_bytes(struct.pack("<Q", size) + header + data)
    line: list[str | Path] = ["quantize", model, "--bits", "8", "-d", chats, "-o", tmp_path / "out"]
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    refused(*line, says=("model.safetensors is not sound safetensors",), within=tmp_path)
    assert time.process_time() - began < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000
