"""A journal of trials whose last line is torn is cut back to its last whole line, and the search goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from halfwatt.core.errors import BadInput
from halfwatt.search.trial_store import TrialOutcome, TrialStore


def tried(path: Path, cost: float) -> None:
    store = TrialStore(path, "s")
    with store.trial() as trial:
        trial.suggest_float("x", 0, 1)
        store.finish(trial, TrialOutcome(cost))


@pytest.mark.parametrize("left", [1, 10, 50])
def test_a_torn_end(left: int, tmp_path: Path) -> None:
    path = tmp_path / "search.journal"
    tried(path, 2.0)
    tried(path, 1.0)
    whole = path.read_bytes()
    last = whole.splitlines(keepends=True)[-1]
    path.write_bytes(whole[: -len(last)] + last[: min(left, len(last) - 2)])
    tried(path, 1.5)
    values = [trial.value for trial in TrialStore(path, "s").completed()]
    assert values[0] == 2.0
    assert values[-1] == 1.5


def test_a_torn_middle_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "search.journal"
    tried(path, 2.0)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], lines[2][:20] + b"\n", *lines[3:]]))
    with pytest.raises(BadInput, match=r"a line in its middle is torn.*move it away"):
        TrialStore(path, "s")
