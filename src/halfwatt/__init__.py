"""halfwatt: chat models that answer as well for a fraction of the joules, with the measurement that proves it.

    import halfwatt

    result = halfwatt.optimize("my_model", "chats.jsonl", max_loss=0.01, out="out")
    print(result.claim.verdict, result.claim.energy_ratio_vs_B1, result.claim.kind)

`load`, `quantize`, `measure`, `compare` and `optimize` come from `halfwatt.api`; nothing heavy is imported before use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from halfwatt import demo as demo
    from halfwatt.api import compare as compare
    from halfwatt.api import load as load
    from halfwatt.api import measure as measure
    from halfwatt.api import optimize as optimize
    from halfwatt.api import quantize as quantize

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """The names above, on first use."""
    from importlib import import_module

    if name == "demo":
        return import_module("halfwatt.demo")
    if name in ("compare", "load", "measure", "optimize", "quantize"):
        return getattr(import_module("halfwatt.api"), name)
    raise AttributeError(f"module 'halfwatt' has no attribute '{name}'")
