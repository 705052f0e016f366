"""What the machine is, as far as it tells."""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path

import psutil
import pytest

import halfwatt
from halfwatt.core.machine import cores, free_memory_b, machine, versions


@pytest.mark.parametrize(
    ("cpu_max", "expected"),
    [("max 100000\n", None), ("100000 100000\n", 1), ("150000 100000\n", 2), ("6400000 100000\n", None), ("", None)],
)
def test_a_containers_quota_bounds_the_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpu_max: str, expected: int | None
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(os, "process_cpu_count", lambda: 4, raising=False)
    (tmp_path / "cpu.max").write_text(cpu_max)
    assert cores(tmp_path / "cpu.max") == (expected or 4)


@pytest.mark.parametrize(
    ("limit", "used", "left"),
    [("max", "5", None), ("1000", "400", 675), ("999999999999999", "0", None), (None, "", None)],
)
def test_a_containers_limit_bounds_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str | None, used: str, left: int | None
) -> None:
    available = psutil.virtual_memory()._replace(available=10**9)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: available)
    if limit is not None:
        (tmp_path / "memory.max").write_text(limit)
        (tmp_path / "memory.current").write_text(used)
        (tmp_path / "memory.stat").write_text("anon 325\nfile 75\ninactive_file 50\nactive_file 25\n")
    assert free_memory_b(memory=tmp_path) == (left or 10**9)


def test_a_system_without_affinity_counts_all_its_processors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.delattr(os, "process_cpu_count", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    assert cores(tmp_path / "none") == 12


def test_what_is_told_of_the_machine() -> None:
    facts = machine()
    assert facts["cores"] == str(cores())
    assert float(facts["memory_gib"]) == pytest.approx(psutil.virtual_memory().total / 2**30, abs=0.05)
    assert facts["system"] == os.uname().sysname
    assert all(facts.values()), "what the system does not tell is left out"


def test_versions_are_those_installed() -> None:
    assert versions()["torch"] == metadata.version("torch")
    assert halfwatt.__version__ == metadata.version("halfwatt")
