"""Every row once an epoch, little padding, the same order for the same seed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from halfwatt.compress.training.batches import Predictor, Row, collate, encode_rows, plan
from halfwatt.core.errors import BadInput, ModelError
from halfwatt.dialogues.dialogue import Dialogue, Message
from halfwatt.models.chat_model import load
from tests.support import tiny_models as tiny


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(2, 300), min_size=1, max_size=200), st.integers(64, 2048), st.integers(0, 5))
def test_each_row_once_and_no_batch_too_large(lengths: list[int], batch_tokens: int, epoch: int) -> None:
    batches = plan(lengths, batch_tokens, seed=3, epoch=epoch)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        padded = -(-max(lengths[i] for i in batch) // 32) * 32
        assert len(batch) == 1 or len(batch) * padded <= batch_tokens


def test_the_same_for_the_same_seed_and_epoch_and_another_otherwise() -> None:
    lengths = [10 + 7 * i % 90 for i in range(300)]
    assert plan(lengths, 512, 1, 0) == plan(lengths, 512, 1, 0)
    assert plan(lengths, 512, 1, 0) != plan(lengths, 512, 1, 1) != plan(lengths, 512, 2, 1)


def test_rows_of_like_length_share_a_batch() -> None:
    lengths = [16] * 500 + [250] * 500
    padded = sum(len(b) * max(lengths[i] for i in b) for b in plan(lengths, 1024, 0, 0))
    assert padded <= 1.05 * sum(lengths)


def test_what_is_learned_is_what_the_assistant_said(tmp_path: Path) -> None:
    model = load(tiny.folder(tmp_path))
    encoded = encode_rows(tiny.dialogues(), model.tokenizer, longest=512)
    batch = collate(encoded)
    replies = [t for row in encoded for t, mine in zip(row.ids, row.reply, strict=True) if mine]
    assert batch.labels.tolist() == replies
    assert batch.ids.shape[1] % 32 == 0
    assert not batch.reply[:, 0].any()


def test_the_predictor_gives_the_networks_own_logits_where_they_are_asked(tmp_path: Path) -> None:
    for arch in ("llama", "gpt2", "qwen2"):
        model = load(tiny.folder(tmp_path, arch))
        batch = collate(encode_rows(tiny.dialogues(), model.tokenizer, 512))
        with torch.no_grad():
            whole = model.network(input_ids=batch.ids).logits[:, :-1][batch.reply[:, 1:]]
            assert torch.allclose(Predictor(model.network)(batch.ids, batch.reply), whole, atol=1e-5)


def test_long_dialogues_are_cut_and_ones_without_a_reply_left_out(tmp_path: Path) -> None:
    model = load(tiny.folder(tmp_path))
    encoded = encode_rows(tiny.dialogues(), model.tokenizer, longest=40)
    assert all(len(row.ids) <= 40 for row in encoded)
    with pytest.raises(BadInput, match="no reply to learn from"):
        encode_rows(tiny.dialogues(), model.tokenizer, longest=3)


def test_an_odd_dialogue_is_not_learned_from_and_told(tmp_path: Path) -> None:
    model, lines = load(tiny.folder(tmp_path)), list[str]()
    odd = Dialogue("odd", (Message("user", "Hi"), Message("assistant", "<|im_start|>")))
    rows = encode_rows((*tiny.dialogues(), odd), model.tokenizer, 512, lines.append)
    assert [row.name for row in rows] == [d.id for d in tiny.dialogues()]
    assert lines[0].startswith("1 of 6 dialogues are not learned from: dialogue odd: its text holds")
    with pytest.raises(ModelError, match="dialogue odd"):
        encode_rows((odd, odd), model.tokenizer, 512)


def test_an_empty_share_takes_part_with_nothing_to_learn() -> None:
    whole = [Row("a", tuple(range(40)), (False,) * 20 + (True,) * 20)]
    batch = collate([], of=whole)
    assert batch.ids.shape == (1, 64)
    assert batch.labels.numel() == 0
