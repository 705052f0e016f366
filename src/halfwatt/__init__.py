"""halfwatt: chat models that answer as well for a fraction of the joules, with the measurement that proves it.

    import halfwatt

    result = halfwatt.optimize("my_model", "chats.jsonl", max_loss=0.01, out="out")
    print(result.claim.verdict, result.claim.energy_ratio_vs_B1, result.claim.kind)

The verbs come from `halfwatt.api.verbs`; nothing heavy is imported before use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from halfwatt import demo as demo
    from halfwatt.api.verbs import compare as compare
    from halfwatt.api.verbs import load as load
    from halfwatt.api.verbs import measure as measure
    from halfwatt.api.verbs import optimize as optimize
    from halfwatt.api.verbs import plan as plan
    from halfwatt.api.verbs import quantize as quantize

    __version__: str


def __getattr__(name: str) -> Any:
    """The names above, on first use; the version is that of the installed package."""
    from importlib import import_module

    if name == "__version__":
        from importlib.metadata import version

        return version("halfwatt")
    if name == "demo":
        return import_module("halfwatt.demo")
    if name in ("compare", "load", "measure", "optimize", "plan", "quantize"):
        return getattr(import_module("halfwatt.api.verbs"), name)
    raise AttributeError(f"module 'halfwatt' has no attribute '{name}'")
