"""How surprising a text is to what was counted, by hand; and its file."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path

import pytest

from halfwatt.core.errors import ModelError
from halfwatt.dialogues.dialogue import Dialogue, Message
from halfwatt.models.bigram_model import BigramModel, read_bigrams, surprisal, write_bigrams

EDGE = 3  # of three token ids
MODEL = BigramModel.counted([(0, 1), (0, 1), (0, 2)], EDGE)


def test_the_formula_by_hand() -> None:
    """Seen: 0 after the edge three times; 1 twice and 2 once after 0; the edge after 1 twice, after 2 once."""
    single = {0: (3 + 4 / 4) / (9 + 4), 1: (2 + 4 / 4) / (9 + 4), EDGE: (3 + 4 / 4) / (9 + 4)}
    p_first = (3 + 1 * single[0]) / (3 + 1)
    p_second = (2 + 2 * single[1]) / (3 + 2)
    p_end = (2 + 1 * single[EDGE]) / (2 + 1)
    assert MODEL.nats((0, 1)) == pytest.approx(-math.log(p_first * p_second * p_end))


def test_what_follows_any_token_adds_up_to_one() -> None:
    for first in range(EDGE + 1):
        assert sum(math.exp(MODEL._log_p((first, second))) for second in range(EDGE + 1)) == pytest.approx(1)


def test_what_was_seen_surprises_least() -> None:
    texts = {text: MODEL.nats(text) for text in product(range(EDGE), repeat=2)}
    assert min(texts, key=texts.__getitem__) == (0, 1)
    assert all(math.isfinite(nats) for nats in texts.values()), "what was never seen is possible too"


def test_nothing_was_seen() -> None:
    assert BigramModel.counted([], 9).nats((1, 2)) == pytest.approx(3 * math.log(10))


def test_all_that_the_person_has_said_is_weighed_together() -> None:
    """In nats a byte of it, a line's end for each; what others say is not asked about."""
    said = [Message("system", "b"), Message("user", " a "), Message("assistant", "bbb"), Message("user", "é")]
    encode = {"a": (0, 1), "é": (2, 2)}.__getitem__
    nats = MODEL.nats((0, 1)) + MODEL.nats((2, 2))
    assert surprisal(MODEL, encode, Dialogue("x", tuple(said))) == pytest.approx(nats / (2 + 3))


def test_its_file_holds_it(tmp_path: Path) -> None:
    write_bigrams(MODEL, tmp_path / "words.safetensors")
    again = read_bigrams(tmp_path / "words.safetensors")
    assert (again.pairs, again.vocabulary) == (MODEL.pairs, EDGE)
    assert again.nats((2, 0, 1)) == MODEL.nats((2, 0, 1))
    (tmp_path / "words.safetensors").write_bytes(b"no")
    with pytest.raises(ModelError, match="is not a bigram model"):
        read_bigrams(tmp_path / "words.safetensors")
