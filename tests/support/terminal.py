"""What `rich` prints, as text."""

from __future__ import annotations

from io import StringIO

from rich.console import Console, RenderableType


def plain(view: RenderableType, width: int = 80) -> str:
    """Any view without colours, ``width`` columns wide."""
    buffer = StringIO()
    Console(file=buffer, width=width, color_system=None, legacy_windows=False).print(view)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"
