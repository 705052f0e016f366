"""Every test process keeps to one core, so that thread pools that spin never wait for each other's cores.

And each takes its turns at a device by itself (`files.turn`): what it measures means nothing.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def keep_to_one_core() -> None:
    """Before anything is imported that counts its threads; processes under test inherit the core."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if worker.startswith("gw"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker[2:]) % len(cores)]})
        own = Path(tempfile.gettempdir()) / f"halfwatt-tests-{os.getuid()}-{worker}"
        own.mkdir(exist_ok=True)
        os.environ["TMPDIR"] = tempfile.tempdir = str(own)


keep_to_one_core()  # not in a hook: the conftest of a folder named on the command line is imported before hooks run
