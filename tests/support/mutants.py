"""Seeded damage to the bytes of a file."""

from __future__ import annotations

import random
from collections.abc import Iterator


def mutants(sound: bytes, count: int, header_b: int, seed: int = 0) -> Iterator[bytes]:
    """``count`` copies, each torn, or with one to eight bits flipped or eight bytes overwritten in its header."""
    draw = random.Random(seed)
    for number in range(count):
        copy = bytearray(sound)
        if number % 4 == 0:
            yield bytes(copy[: draw.randrange(len(copy))])
            continue
        if number % 4 == 1:
            at = draw.randrange(header_b - 8)
            copy[at : at + 8] = draw.choice(
                [b"\xff" * 8, b"\0" * 8, draw.randbytes(8), (1 << 62).to_bytes(8, "little")]
            )
        else:
            for _ in range(draw.randint(1, 8)):
                copy[draw.randrange(header_b)] ^= 1 << draw.randrange(8)
        yield bytes(copy)
