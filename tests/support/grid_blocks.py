"""llama.cpp's blocks read back."""

from __future__ import annotations

import torch

from halfwatt.models.grid import BLOCK_BYTES, Bits, GridTensor


def unpack(blocks: torch.Tensor, bits: Bits) -> GridTensor:
    """The inverse of `pack`: uint8 [rows, bytes], a whole number of blocks each, to integers and scales."""
    rows = len(blocks)
    block = blocks.reshape(rows, -1, BLOCK_BYTES[bits])
    scale = block[..., :2].contiguous().view(torch.float16).reshape(rows, -1)
    body = block[..., 2:].contiguous()
    q = body.view(torch.int8) if bits == 8 else torch.cat([body & 0x0F, body >> 4], dim=-1).to(torch.int8) - 8
    return GridTensor(q.reshape(rows, -1), scale, bits)
