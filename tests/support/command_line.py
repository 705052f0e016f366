"""The command line as typed, in this process: a process of its own spends seconds on imports before it says no."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

import pytest

from halfwatt.cli.main import main as command_line
from halfwatt.core.settings import RunSettings


def halfwatt(*arguments: str | Path, base: RunSettings | None = None) -> subprocess.CompletedProcess[str]:
    """What ``halfwatt ARGUMENTS`` prints and returns. base: settings that no flag changes."""
    line, out, err = ["halfwatt", *map(str, arguments)], io.StringIO(), io.StringIO()
    with (
        patch.object(sys, "argv", line),
        patch.dict(os.environ, HF_HUB_OFFLINE="1"),
        redirect_stdout(out),
        redirect_stderr(err),
        pytest.raises(SystemExit) as exit_call,
    ):
        command_line(base)
    assert isinstance(exit_call.value.code, int)
    return subprocess.CompletedProcess(line, exit_call.value.code, out.getvalue(), err.getvalue())
