"""halfwatt: chat models that answer as well for a fraction of the joules, with the measurement that proves it."""

from __future__ import annotations

__version__ = "0.1.0"
