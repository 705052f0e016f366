"""Every test process keeps to one core, so that thread pools that spin never wait for each other's cores."""

from __future__ import annotations

import os


def pytest_configure() -> None:
    """Runs before anything is imported that counts its threads; workers under test inherit the core."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if worker.startswith("gw"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker[2:]) % len(cores)]})
