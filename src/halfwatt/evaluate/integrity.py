"""Gate G0: is an artifact what it claims to be? Pure."""

from __future__ import annotations

from halfwatt.core.settings import Margins
from halfwatt.evaluate.records import GateCheck
from halfwatt.formats.artifact import Parity

_EXPLAINED = 2.0  # times what rounding explains: an export that is wrong is off by far more, its noise by a seventh


def integrity_checks(parity: Parity, margins: Margins) -> list[GateCheck]:
    """Is the artifact what it claims to be? Separates an export bug from a loss by compression.

    Where llama.cpp's rounding of activations explains much, twice of that is allowed.
    """
    kl = max(margins.parity_kl, _EXPLAINED * (parity.kl_of_rounding or 0.0))
    other = 0.0 if parity.top1_of_rounding is None else 1 - parity.top1_of_rounding
    top1 = min(margins.parity_top1, 1 - _EXPLAINED * other)
    exact = {
        "tensors are finite": parity.finite,
        "token ids as the reference's": parity.token_ids_equal,
        "template as the reference's": parity.template_equal,
        "stop tokens as the reference's": parity.eos_equal,
        f"mean KL of the export <= {kl:.2g}": parity.finite and parity.kl_mean <= kl,
        f"top-1 of the export >= {100 * top1:.3g}%": parity.finite and parity.top1 >= top1,
        "checked on real dialogues": parity.dialogues > 0 and parity.tokens > 0,
    }
    detail = "; ".join(parity.problems) or (
        f"KL {parity.kl_mean:.2g}, top-1 {parity.top1:.2%} (near ties aside) over {parity.tokens} tokens "
        f"of {parity.dialogues} dialogues"
    )
    if parity.kl_of_rounding is not None:
        explained = f"KL {parity.kl_of_rounding:.2g}, {parity.top1_of_rounding or 0.0:.2%}"
        detail = f"{detail}; the runtime's rounding of activations to int8 explains {explained}"
    detail = "; ".join((detail, *parity.remarks))
    return [GateCheck("G0", name, "PASS" if holds else "FAIL", None, "exact", detail) for name, holds in exact.items()]
