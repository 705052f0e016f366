"""Types that many packages name."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str], None]
