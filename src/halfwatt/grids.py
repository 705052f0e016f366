"""The two integer grids. A row of 32 weights is ``s * q``: int8 ``q in [-127, 127]``, int4 ``q in [-8, 7]``,
``s`` one fp16 scale. They are at once llama.cpp's ``Q8_0`` and ``Q4_0`` blocks and compressed-tensors' group-32
symmetric W8A16 / W4A16. Pure tensor functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

GROUP = 32
Bits = Literal[8, 4]


@dataclass(frozen=True, slots=True)
class GridTensor:
    """A weight on the grid: integers and their scales.

    q:      int8 [rows, columns]
    scale:  fp16 [rows, columns / 32]
    """

    q: torch.Tensor
    scale: torch.Tensor
    bits: Bits
