"""Energy from a model, for machines without a meter. Grade E: it claims ratios of two things on one machine, NO joules.

    E = P_static * cores * wall + P_active * cpu + e_byte * bytes

with measured wall and CPU-seconds of the process under test, and the bytes of weights and KV cache that the replies had
to read, computed from the format. It is the form that fits published GPU measurements, with CPU time in the place of
operations. ``cores`` and CPU time both count logical processors, as the operating system does.

Coefficients [derived]. codecarbon publishes RAPL energies of four processors, each with 0 to all of its logical
processors busy (``data/hardware/cpu_load_profiling``, "some_cores" files: EPYC 8024P, Threadripper 1950X, E3-1240 v2,
2 x E5-2620 v3; 39 loaded points). Least squares on the relative error of ``W = a * processors + b * busy`` gives a and
b below. On the same points codecarbon's own law, TDP * (0.1 + 0.9 load^3), is off by up to 229 % in ratios, and
CPU-seconds alone by 69 % in the median.

Published error of a ratio, that is of the power ratio of two loads on one processor at measured time (326 pairs):

                                                       median    95th percentile
    the four processors of the fit                      15 %      48 %
    a processor left out of the fit                     20 %      74 %
    the same, busy processors differ up to 3 times      15 %      49 %

The claim is +-50 %, as for GPU models with borrowed coefficients (15 to 51 %). With equal thread counts the power
cancels and the error is mostly that of the byte term; where they differ more than threefold, 50 % is too narrow for a
processor unlike these four. Bytes count as if all came from DRAM: for small models, whose weights stay in the cache, it
flatters whatever shrinks them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from halfwatt.core.errors import MeterError
from halfwatt.meters.base import MeterInfo, Usage


@dataclass(frozen=True, slots=True)
class Coefficients:
    """Watts and joules, each with its source."""

    static_w: float = 1.87  # per logical processor that is visible, while the work runs; codecarbon's RAPL files, above
    active_w: float = 2.33  # per logical processor that is busy, in addition. From the same fit; use the two as a set
    # DRAM access: DDR5-6400 at 9 to 16 pJ/bit (Micron IDD figures in gem5, DRAMsim3), the middle of them times 8
    j_per_byte: float = 100e-12


DERIVED = Coefficients()
INFO = MeterInfo(
    name="modelled",
    domain="the process under test",
    kind="modelled",
    grade="E",
    covers="CPU time, wall time and bytes read by the process under test, through published coefficients; ratios only",
    not_covered="absolute joules; everything outside the process",
    period_s=0.0,
    step_j=0.0,
    ratio_error=0.5,
)


def modelled_joules(usage: Usage, cores: int, coefficients: Coefficients = DERIVED) -> float:
    """The formula above, of what was used in a window or by a training.

    Args:
        cores: logical processors visible to us, which share the static power.

    Raises:
        MeterError: a figure of ``usage`` is negative or not finite.
    """
    if not all(math.isfinite(x) and x >= 0 for x in (usage.cpu_s, usage.wall_s, usage.bytes_b)):
        raise MeterError("the use of the process under test is not known", got=str(usage))
    static_j = coefficients.static_w * cores * usage.wall_s
    return static_j + coefficients.active_w * usage.cpu_s + coefficients.j_per_byte * usage.bytes_b
