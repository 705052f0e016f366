"""Hardware that a plan can be made for: how fast it computes and reads, by its makers' data sheets.

Teraflops are dense (no sparsity) with 32-bit accumulation: fp16 or bf16 matrix units on accelerators, fp32 vector units
of all cores on a CPU (cores x GHz x flops a cycle). Gigabytes are 10^9 bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from halfwatt.core.errors import BadInput, suggestion

Kind = Literal["gpu", "tpu", "cpu"]


@dataclass(frozen=True, slots=True)
class Hardware:
    """One device; ``key`` is what people type."""

    key: str
    name: str
    kind: Kind
    teraflops: float
    gigabytes_s: float
    source: str


_NVIDIA = "NVIDIA data sheet"
_GEFORCE = "NVIDIA architecture white paper"
_APPLE = "Apple's announcement; fp32 of the GPU"

TABLE = (
    Hardware("h100", "NVIDIA H100 SXM 80 GB", "gpu", 989, 3350, _NVIDIA),
    Hardware("h200", "NVIDIA H200 SXM", "gpu", 989, 4800, _NVIDIA),
    Hardware("b200", "NVIDIA B200", "gpu", 2250, 8000, _NVIDIA),
    Hardware("a100", "NVIDIA A100 SXM 80 GB", "gpu", 312, 2039, _NVIDIA),
    Hardware("a100-40", "NVIDIA A100 SXM 40 GB", "gpu", 312, 1555, _NVIDIA),
    Hardware("v100", "NVIDIA V100 SXM", "gpu", 125, 900, _NVIDIA),
    Hardware("l40s", "NVIDIA L40S", "gpu", 362, 864, _NVIDIA),
    Hardware("l4", "NVIDIA L4", "gpu", 121, 300, _NVIDIA),
    Hardware("a10", "NVIDIA A10", "gpu", 125, 600, _NVIDIA),
    Hardware("t4", "NVIDIA T4", "gpu", 65, 320, _NVIDIA),
    Hardware("rtx-3080", "NVIDIA RTX 3080 10 GB", "gpu", 59.5, 760, _GEFORCE),
    Hardware("rtx-3090", "NVIDIA RTX 3090", "gpu", 71, 936, _GEFORCE),
    Hardware("rtx-4090", "NVIDIA RTX 4090", "gpu", 165, 1008, _GEFORCE),
    Hardware("rtx-5090", "NVIDIA RTX 5090", "gpu", 209, 1792, _GEFORCE),
    Hardware("mi210", "AMD MI210", "gpu", 181, 1638, "AMD data sheet"),
    Hardware("mi300x", "AMD MI300X", "gpu", 1307, 5300, "AMD data sheet"),
    Hardware("m1", "Apple M1", "gpu", 2.6, 68, _APPLE),
    Hardware("m1-pro", "Apple M1 Pro", "gpu", 5.2, 200, _APPLE),
    Hardware("m1-max", "Apple M1 Max", "gpu", 10.4, 400, _APPLE),
    Hardware("m2", "Apple M2, 10 GPU cores", "gpu", 3.6, 100, _APPLE),
    Hardware("tpu-v4", "Google TPU v4", "tpu", 275, 1228, "Google Cloud documentation"),
    Hardware("tpu-v5e", "Google TPU v5e", "tpu", 197, 819, "Google Cloud documentation"),
    Hardware("rpi4", "Raspberry Pi 4", "cpu", 0.048, 5, "4 x 1.5 GHz x 8; 4 to 6 GB/s as measured by others"),
    Hardware("rpi5", "Raspberry Pi 5", "cpu", 0.154, 17, "4 x 2.4 GHz x 16; 32 bits of LPDDR4X-4267"),
    Hardware("i9-13900k", "Intel i9-13900K", "cpu", 1.4, 89.6, "LLM-Viewer, hardware_params.py"),
    Hardware("epyc-9354", "AMD EPYC 9354", "cpu", 3.3, 461, "32 x 3.25 GHz x 32; 12 x DDR5-4800"),
)


def find(keys: Sequence[str]) -> tuple[Hardware, ...]:
    """The devices of these names. Raises BadInput where one is not in the table."""
    known = {h.key: h for h in TABLE}
    if strange := [key for key in keys if key not in known]:
        raise BadInput("unknown --hardware", got=strange[0], hint=suggestion(strange[0], known))
    return tuple(known[key] for key in keys)
