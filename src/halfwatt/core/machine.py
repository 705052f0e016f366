"""What this machine is: cores, memory, versions. Reads only; what the system does not tell is left out."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def cores(cpu_max: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Logical processors that this process may use: those it may run on, or its container's quota in ``cpu_max``."""
    if hasattr(os, "process_cpu_count"):  # Python 3.13
        count = os.process_cpu_count() or 1
    else:  # macOS has no affinity
        count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota_us, period_us = map(int, cpu_max.read_text().split())  # the first may be "max"
        return min(count, math.ceil(quota_us / period_us))
    except (OSError, ValueError):  # no container, or one without a quota
        return count


def machine() -> dict[str, str]:
    """Processor, cores, memory, kernel and what else a reader of a measurement wants to know."""
    import psutil

    facts = {
        "cpu": _cpuinfo("model name") or platform.processor(),  # psutil tells no name
        "cores": str(cores()),
        "memory_gib": f"{psutil.virtual_memory().total / 2**30:.1f}",
        "kernel": platform.release(),
        "system": platform.system(),
        "governor": text_of(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        "virtual": "yes" if "hypervisor" in _cpuinfo("flags") else "",
    }
    return {name: value for name, value in facts.items() if value}


def free_memory_b(device: str = "cpu", memory: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that can still be had on a device; of a container's ``memory`` what its limit leaves, and what pages of
    files take, which give way."""
    if device.startswith("cuda"):
        import torch

        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + held
    import psutil

    available = int(psutil.virtual_memory().available)
    try:
        limit, used = (int((memory / name).read_text()) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):  # no container, or one without a limit
        return available
    kinds: dict[str, str] = {}
    with suppress(OSError, ValueError):
        kinds = dict(line.split() for line in (memory / "memory.stat").read_text().splitlines())
    pages = sum(int(kinds.get(name, 0)) for name in ("inactive_file", "active_file"))
    return min(available, limit - used + pages)


def halfwatt_version() -> str:
    """As installed."""
    from importlib import metadata

    return metadata.version("halfwatt")


def versions() -> dict[str, str]:
    """Of Python and of the packages that compute."""
    from importlib import metadata

    texts = {"python": platform.python_version()}
    for package in ("torch", "transformers", "llama-cpp-python", "gguf", "numpy", "scipy", "sacrebleu"):
        with suppress(metadata.PackageNotFoundError):
            texts[package] = metadata.version(package)
    return texts


def _cpuinfo(field: str) -> str:
    lines = text_of(Path("/proc/cpuinfo")).splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(field)), "")


def text_of(path: Path, read_text: Callable[[Path], str] = Path.read_text) -> str:
    """What a file says, without the blanks around it; "" where it cannot be read."""
    try:
        return read_text(path).strip()
    except OSError:
        return ""
