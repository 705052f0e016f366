"""Guesses ahead: what a table counts, what a lookup finds again, and the file between export and session."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from halfwatt.core.errors import ModelError
from halfwatt.models import ngram_table
from halfwatt.models.ngram_table import Guess, NgramTable, count_ngrams
from halfwatt.runtimes.speculation import LookupDrafter, TableDrafter


def test_a_table_counts_what_the_model_says_and_not_what_stands_there() -> None:
    told = [([1, 2, 3, 9], [(2, 5), (3, 6)]), ([1, 2, 8], [(2, 5)]), ([7, 2, 8], [(2, 4)])]
    table = count_ngrams(told, order=2)
    assert table.follows == {(1, 2): Guess(5, 1.0), (2,): Guess(5, 2 / 3)}  # 3 and (2, 3) were seen once
    assert table.after([0, 1, 2]) == Guess(5, 1.0)
    assert table.after([7, 2]) == Guess(5, 2 / 3)
    assert table.after([2, 7]) is None
    assert count_ngrams(told, order=2, least=1).after([3]) == Guess(6, 1.0)


def test_a_draft_goes_on_while_all_of_it_is_likely_enough() -> None:
    table = NgramTable({(1,): Guess(2, 0.9), (2,): Guess(3, 0.7), (1, 2): Guess(4, 0.8), (4,): Guess(1, 0.5)}, order=2)
    drafter = TableDrafter(table, least=0.7)
    drafter.hear([7, 1])
    assert drafter.guess(5) == [2, 4]  # 0.9 * 0.8; after that 0.36
    assert drafter.guess(1) == [2]
    assert TableDrafter(table, 0.3, [7, 1]).guess(5) == [2, 4, 1, 2]
    drafter.hear([9])
    assert drafter.guess(5) == []


def test_a_lookup_repeats_what_followed_before() -> None:
    drafter = LookupDrafter()
    drafter.hear([1, 2, 3, 4, 5, 6, 1, 2, 3])
    assert drafter.guess(2) == [4, 5]
    drafter.hear([7])
    assert drafter.guess(4) == []
    drafter.hear([1, 2, 3])
    assert drafter.guess(9) == [7, 1, 2, 3]  # the last time counts


@given(st.lists(st.integers(0, 3), max_size=60))
def test_a_lookup_looks_only_behind_itself(tokens: list[int]) -> None:
    drafter = LookupDrafter()
    for token in tokens:
        drafter.hear([token])
        guess = drafter.guess(3)
        assert len(guess) <= 3
        if guess:
            seen = drafter.heard[:-1]
            here = drafter.heard[-3:] + guess[:1]
            assert any(seen[i : i + 3] == here[:3] for i in range(len(seen)))
            assert any(drafter.heard[i : i + 4] == here for i in range(len(drafter.heard)))


@given(
    st.dictionaries(
        st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=3).map(tuple),
        st.builds(Guess, st.integers(0, 2**31 - 1), st.floats(0.25, 1, width=32)),
        max_size=8,
    )
)
def test_a_table_is_read_back_as_it_was(follows: dict[tuple[int, ...], Guess]) -> None:
    table = NgramTable(follows, 3)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "draft.safetensors"
        ngram_table.write_table(table, path)
        assert ngram_table.read_table(path) == table


def test_its_file(tmp_path: Path) -> None:
    table = NgramTable({(1, 2): Guess(3, 0.5)}, 4)
    ngram_table.write_table(table, tmp_path / "draft.safetensors")
    assert ngram_table.read_table(tmp_path / "draft.safetensors") == table
    (tmp_path / "bad.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(ModelError, match="holds no draft table"):
        ngram_table.read_table(tmp_path / "bad.safetensors")
    with pytest.raises(ModelError, match="holds no draft table"):
        ngram_table.read_table(tmp_path / "missing.safetensors")
    assert load_file(tmp_path / "draft.safetensors")["contexts"].dtype == np.int32
