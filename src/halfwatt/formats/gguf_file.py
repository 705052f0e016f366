"""A stranger's GGUF file: its keys and where its tensors lie, every length checked against the file before it is used.

The gguf package's own reader makes numpy objects of each entry of an array: 13 s and 750 MB for a vocabulary of 262,144
tokens, of which this needs a second. The arithmetic of blocks is that package's.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from numpy.typing import NDArray

from halfwatt.core.errors import ModelError, first_line
from halfwatt.models.grid import Bits, GridTensor, limits, unpack

GRIDS: dict[Type, Bits] = {Type.Q8_0: 8, Type.Q4_0: 4}  # stored types that are ours
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_VERSIONS = (2, 3)
_MOST_DIMENSIONS = 4
_CHUNK = 1 << 22  # numbers that are float32 at a time
_BF16_ROUNDING = 2.0**-9  # relative; f16 rounds eight times finer until it runs out of range at either end


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor as it lies in the file. shape: as torch has it; data: uint8 [rows, bytes], mapped."""

    shape: tuple[int, ...]
    kind: Type
    data: NDArray[np.uint8]

    def values(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Dequantized, of its shape; some rows at a time, since what is in between is several times as large."""
        rows = torch.empty(self.data.shape[0], self.shape[-1], dtype=dtype)
        step = max(1, _CHUNK // self.shape[-1])
        for start in range(0, len(rows), step):
            floats = gguf.quants.dequantize(self.data[start : start + step], self.kind)
            rows[start : start + step] = torch.from_numpy(np.array(floats, np.float32))
        return rows.reshape(self.shape)

    def grid(self) -> GridTensor | None:
        """Its integers and scales; None where its blocks are not of a grid of ours."""
        if (bits := GRIDS.get(self.kind)) is None or len(self.shape) != 2:
            return None
        stored = unpack(torch.from_numpy(np.array(self.data)), bits)
        return stored if int(stored.q.min()) >= limits(bits)[0] else None


@dataclass(frozen=True, slots=True)
class GgufFile(Mapping[str, torch.Tensor]):
    """An open file; as a mapping, from a tensor's name to its values, which are read when they are asked for.

    keys:    all of them, by their whole names
    stored:  the tensors, by name
    """

    path: Path
    entries: Mapping[str, Any]
    stored: Mapping[str, StoredTensor]

    @classmethod
    def open(cls, path: Path) -> GgufFile:
        """Read the header; of the tensors only where they lie.

        Raises:
            ModelError: not GGUF, torn, or one of several parts.
        """
        try:
            entries, stored = _read(np.memmap(path, np.uint8, "r"))
        except (OSError, struct.error, ValueError, LookupError, ArithmeticError, TypeError) as error:
            hint = "fetch it again"
            raise ModelError(f"{path} is not a sound GGUF file", got=first_line(error), hint=hint) from error
        if entries.get("split.count", 1) > 1:
            hint = "join them first (llama-gguf-split --merge)"
            raise ModelError(f"{path} is one of several parts", got=f"{entries['split.count']} parts", hint=hint)
        return cls(path, entries, stored)

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.stored[name].values()

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def __len__(self) -> int:
        return len(self.stored)

    @property
    def architecture(self) -> str:
        """llama.cpp's name for it."""
        return str(self.entries.get("general.architecture", ""))

    @property
    def settings(self) -> dict[str, Any]:
        """The keys that say how to compute, without the architecture before their names."""
        prefix = f"{self.architecture}."
        return {key.removeprefix(prefix): value for key, value in self.entries.items() if key.startswith(prefix)}


class _Cursor:
    """A place in the file. Whatever would lie beyond its end raises."""

    def __init__(self, data: NDArray[np.uint8]) -> None:
        self.data, self.at = data, 0

    def take(self, layout: str) -> tuple[Any, ...]:
        values = struct.unpack_from(f"<{layout}", self.data.data, self.at)
        self.at += struct.calcsize(f"<{layout}")
        return values

    def text(self) -> str:
        (length,) = self.take("Q")
        if length > len(self.data) - self.at:
            raise ValueError(f"a text of {length} bytes does not fit")
        self.at += length
        return bytes(self.data[self.at - length : self.at]).decode()

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind in _SCALARS:
            return self.take(_SCALARS[kind])[0]
        if kind != _ARRAY:
            raise ValueError(f"a value of unknown type {kind}")
        kind, count = self.take("IQ")
        if kind == _STRING:
            return [self.text() for _ in range(count)]
        if count > len(self.data) - self.at:
            raise ValueError(f"an array of {count} does not fit")
        return list(self.take(f"{count}{_SCALARS[kind]}"))


def _read(data: NDArray[np.uint8]) -> tuple[dict[str, Any], dict[str, StoredTensor]]:
    cursor = _Cursor(data)
    magic, version, tensors, keys = cursor.take("4sIQQ")
    if magic != b"GGUF" or version not in _VERSIONS:
        raise ValueError(f"it begins with {magic!r}, version {version}")
    entries: dict[str, Any] = {}
    for _ in range(keys):
        name = cursor.text()
        entries[name] = cursor.value(*cursor.take("I"))
    places = [(cursor.text(), *_place(cursor)) for _ in range(tensors)]
    alignment = entries.get("general.alignment", gguf.GGUF_DEFAULT_ALIGNMENT)
    start = -(-cursor.at // alignment) * alignment
    stored = {name: _tensor(data, name, shape, kind, start + offset) for name, shape, kind, offset in places}
    if len(stored) < len(places):
        raise ValueError("two tensors of one name")
    return entries, stored


def _place(cursor: _Cursor) -> tuple[tuple[int, ...], Type, int]:
    (dimensions,) = cursor.take("I")
    if not 0 < dimensions <= _MOST_DIMENSIONS:
        raise ValueError(f"a tensor of {dimensions} dimensions")
    sizes = cursor.take(f"{dimensions}Q")
    kind, offset = cursor.take("IQ")
    return tuple(reversed(sizes)), Type(kind), offset


def _tensor(data: NDArray[np.uint8], name: str, shape: tuple[int, ...], kind: Type, start: int) -> StoredTensor:
    block, block_b = gguf.GGML_QUANT_SIZES[kind]
    rows, odd = math.prod(shape[:-1]), shape[-1] % block
    row_b = shape[-1] // block * block_b
    if odd or not rows or not row_b or start + rows * row_b > len(data):
        raise ValueError(f"{name} of {' x '.join(map(str, shape))} {kind.name} does not lie inside the file")
    return StoredTensor(shape, kind, data[start : start + rows * row_b].reshape(rows, row_b))


def loaded_from(path: Path) -> tuple[str, ...]:
    """The lineage of a stranger's file."""
    return (f"loaded from {path.name}",)


def lineage_of(file: GgufFile) -> tuple[str, ...]:
    """How what it holds was made, as far as it says."""
    return tuple(file.entries.get("halfwatt.lineage", loaded_from(file.path)))


def held_by_f16(values: torch.Tensor) -> bool:
    """Does f16 lose no more of a matrix, in its norm, than bf16's own rounding would?"""
    error = whole = 0.0
    for part in torch.split(values, max(1, _CHUNK // values[0].numel())):
        exact = part.double()  # whose squares stay within range
        error += float((exact - part.to(torch.float16)).square().sum())
        whole += float(exact.square().sum())
    return error <= _BF16_ROUNDING**2 * whole  # false where a value becomes infinite
