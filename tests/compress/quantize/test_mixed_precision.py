"""The allocator against every possible choice, and the step on a network."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from halfwatt.compress.base import StepContext
from halfwatt.compress.quantize.mixed_precision import Choice, Mixed, Option, byte_budget, within
from halfwatt.compress.quantize.quantize import Method, Quantize
from halfwatt.compress.training.batches import Predictor, collate, encode_rows
from halfwatt.compress.training.losses import forward_kl
from halfwatt.core.errors import BadInput
from halfwatt.models.chat_model import ChatModel, load
from tests.support import taught_students as taught

DIALOGUES = tuple(taught.dialogues())
OPTION = st.tuples(st.integers(1, 50), st.integers(1, 50), st.floats(0, 1), st.floats(0, 1))


Found = list[tuple[int, int, float, float]]


def options(rows_: Found) -> list[Option]:
    return [Option(str(i), (b, b + more), (four, eight)) for i, (b, more, four, eight) in enumerate(rows_)]


def choices(given_: list[Option]) -> list[tuple[int, float]]:
    """Bytes and nats of every choice there is."""
    return [
        (
            sum(o.bytes_b[k] for o, k in zip(given_, ks, strict=True)),
            sum(o.nats[k] for o, k in zip(given_, ks, strict=True)),
        )
        for ks in product((0, 1), repeat=len(given_))
    ]


@settings(max_examples=150, deadline=None)
@given(st.lists(OPTION, min_size=1, max_size=7), st.floats(0, 1))
def test_within_a_budget_no_choice_loses_less(rows: Found, share: float) -> None:
    given_ = options(rows)
    budget = byte_budget(given_, share)
    choice = within(given_, budget)
    named = [o.name in choice.int8 for o in given_]
    assert choice.bytes_b == sum(o.bytes_b[k] for o, k in zip(given_, named, strict=True)) <= budget
    assert choice.nats == pytest.approx(sum(o.nats[k] for o, k in zip(given_, named, strict=True)))
    assert choice.nats <= min(nats for bytes_b, nats in choices(given_) if bytes_b <= budget) + 1e-9


def test_more_bytes_are_given_to_what_they_save_most() -> None:
    some = options([(10, 10, 0.5, 0.1), (20, 5, 0.4, 0.0), (5, 50, 0.1, 0.2)])
    assert (byte_budget(some, 0.0), byte_budget(some, 1.0)) == (35, 50), "the last loses more at int8"
    assert within(some, 36).int8 == ()
    assert within(some, 40).int8 == ("1",)
    assert within(some, 50).int8 == within(some, 1000).int8 == ("0", "1")
    assert within(some, 0) == Choice(35, 1.0, ())


def test_a_large_weight_and_small_ones_do_not_stand_in_each_others_way() -> None:
    head = options([(10, 100, 1.0, 0.0), (10, 20, 0.1, 0.0), (10, 5, 0.01, 0.0)])
    assert within(head, 56).int8 == ("1", "2"), "it does not fit, the others do"
    dearer = options([(10, 100, 1.0, 0.0), (10, 5, 0.1, 0.0), (10, 5, 0.1, 0.0)])
    assert within(dearer, 130).int8 == ("0",), "the others save more for a byte, and would leave it no room"


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> ChatModel:
    return load(taught.folder(tmp_path_factory.mktemp("mixed"), "llama", DIALOGUES))


@pytest.mark.parametrize("method", ["rtn", "gptq"])
def test_mixed_loses_less_than_int4_and_reads_less_than_int8(method: Method, learned: ChatModel) -> None:
    context = StepContext(dialogues=DIALOGUES)
    before = [p.detach().clone() for p in learned.network.parameters()]
    batch = collate(encode_rows(DIALOGUES[::4], learned.tokenizer, 512))

    def apart(quantized: ChatModel) -> float:
        with torch.no_grad():
            expected = Predictor(learned.network)(batch.ids, batch.reply)
            return float(forward_kl(expected, Predictor(quantized.network)(batch.ids, batch.reply)).mean())

    mixed = Mixed(extra=0.5, method=method).apply(learned, context)
    int4, int8 = Quantize(4, method=method).apply(learned, context), Quantize(8).apply(learned, context)
    assert apart(int8) < apart(mixed) < 0.8 * apart(int4)
    bits = [g.bits for name, g in mixed.grid.items() if "embed" not in name]
    assert 0 < bits.count(8) < len(bits)
    assert "weights at int8" in mixed.lineage[-1]
    assert all(torch.equal(a, b) for a, b in zip(before, learned.network.parameters(), strict=True))


def test_what_cannot_be_is_said_before_any_work(learned: ChatModel) -> None:
    assert Mixed(extra=2.0).problems(learned) == ["extra lies between 0 and 1, not 2"]
    with pytest.raises(BadInput, match="needs dialogues"):
        Mixed().apply(learned, StepContext())


def test_nothing_extra_is_int4_and_all_of_it_the_best_of_both(learned: ChatModel, tmp_path: Path) -> None:
    context = StepContext(dialogues=DIALOGUES)
    plain = Mixed(extra=0.0).apply(learned, context)
    assert {g.bits for name, g in plain.grid.items() if "embed" not in name} == {4}
    gaining = [o.name for o in Mixed().options(learned, context) if o.nats[0] > o.nats[1]]
    whole = Mixed(extra=1.0).apply(learned, context)
    assert {name for name in gaining if whole.grid[name].bits == 8} == set(gaining) != set()
    assert len(whole.grid) == len(plain.grid)
