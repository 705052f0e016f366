"""A fault on the command line: one line that names it, the right exit code, and nothing left behind."""

from __future__ import annotations

from pathlib import Path

from halfwatt.core.settings import Margins, RunSettings
from tests.support.command_line import halfwatt

LENIENT = RunSettings(margins=Margins(parity_kl=0.1, parity_top1=0.5))  # random weights move far when they are rounded


def files(folder: Path) -> dict[Path, bytes]:
    """Every file in it, and what it holds."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(
    *line: str | Path, says: tuple[str, ...], within: Path, code: int = 2, base: RunSettings | None = None
) -> str:
    """The line that ``halfwatt LINE`` writes to stderr.

    says:    what it has to name
    within:  the folder in which nothing may have changed
    """
    before = files(within)
    done = halfwatt(*line, base=base)
    told = [text for text in done.stderr.splitlines() if text.startswith("halfwatt: ")]
    assert done.returncode == code, done.stderr
    assert len(told) == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert [part for part in says if part not in told[0]] == [], told[0]
    assert files(within) == before
    return told[0]
