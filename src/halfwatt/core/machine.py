"""What this machine is: cores, memory, versions. Reads only; what the system does not tell is left out."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from pathlib import Path

_PACKAGES = ("torch", "transformers", "llama-cpp-python", "gguf", "numpy", "scipy", "sacrebleu")


def cores() -> int:
    """Logical processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _machine() -> dict[str, str]:
    known = {
        "cpu": _cpu_name(),
        "cores": str(cores()),
        "memory_gib": _memory_gib(),
        "kernel": platform.release(),
        "system": platform.system(),
        "governor": _first_line(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        "virtual": "yes" if "hypervisor" in _cpu_flags() else None,
    }
    return {name: value for name, value in known.items() if value}


def _versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _cpu_name() -> str | None:
    return _cpuinfo("model name") or platform.processor() or None


def _cpu_flags() -> str:
    return _cpuinfo("flags") or ""


def _cpuinfo(field: str) -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(field)), None)


def _memory_gib() -> str | None:
    first = _first_line(Path("/proc/meminfo"))
    return f"{int(first.split()[1]) / 2**20:.1f}" if first and first.startswith("MemTotal") else None


def _first_line(path: Path) -> str | None:
    try:
        return path.read_text().splitlines()[0].strip()
    except (OSError, IndexError):
        return None
