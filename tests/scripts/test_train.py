"""Training the demo model, at a size of seconds: it learns, it resumes, and what it saves loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from halfwatt.dialogues.dialogue import Dialogue, Message
from halfwatt.models.chat_model import load
from scripts.demo_model import corpus, train
from scripts.demo_model.corpus import Rows
from scripts.demo_model.train import Run, Settings

SMALL = Settings(
    epochs=3, batch_tokens=960, lr=5e-3, warmup_steps=5, width=32, layers=1, heads=2, kv_heads=1, ffn=64,
    vocabulary=300, evaluations=4,
)  # fmt: skip


def row(i: int) -> dict[str, Any]:
    messages = [("user", f"turn on light {i % 7}"), ("assistant", f"Turning on light {i % 7} now.")]
    return {"messages": [{"role": role, "content": text} for role, text in messages]}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return corpus.train_tokenizer((m["content"] for i in range(7) for m in row(i)["messages"]), SMALL.vocabulary)


@pytest.fixture(scope="module")
def tables(tokenizer: Tokenizer) -> list[Rows]:
    return corpus.table([corpus.encode(tokenizer, row(i)) for i in range(120)])


def run(tables: list[Rows], out: Path) -> Run:
    return Run(SMALL, tables, {"home": tables}, out, "cpu")


def test_a_row_weighs_the_assistants_words_and_its_end_of_turn(tokenizer: Tokenizer) -> None:
    ids, weights = corpus.encode(tokenizer, row(3))
    learned = tokenizer.decode([t for t, w in zip(ids, weights, strict=True) if w == 2], skip_special_tokens=False)
    assert learned == "Turning on light 3 now.<|im_end|>"
    assert [w for t, w in zip(ids, weights, strict=True) if t == corpus.START] == [0, 0]


def test_long_and_short_dialogues_find_their_length() -> None:
    by_length = corpus.table([([5] * n, [2] * n) for n in (10, 96, 97, 900)])
    assert [len(rows.ids) for rows in by_length] == [2, 1, 0, 1]
    assert by_length[0].weight[0].sum() == 20
    assert (by_length[0].ids[0, 10:] == corpus.PAD).all()


def test_it_learns_and_what_it_saves_is_a_chat_model(tables: list[Rows], tokenizer: Tokenizer, tmp_path: Path) -> None:
    trained = run(tables, tmp_path / "out")
    trained.train(compiled=False)
    assert trained.curve[-1]["tune"] < 0.5 * trained.curve[0]["tune"]
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    trained.save(tmp_path / "model", tmp_path / "tokenizer.json", [])
    model = load(tmp_path / "model")
    dialogue = Dialogue("d", tuple(Message(m["role"], m["content"]) for m in row(3)["messages"]))
    assert list(model.tokenizer.scored(dialogue).ids) == corpus.encode(tokenizer, row(3))[0]
    assert model.tokenizer.eos_ids == (corpus.END,)
    assert model.generation.temperature == 0.7
    assert "model.embed_tokens.weight" in dict(model.network.named_parameters())


def test_stopped_and_resumed_it_ends_with_the_same_weights(
    tables: list[Rows], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tables, tmp_path / "whole")
    whole.train(compiled=False)

    class Killed(Exception):
        pass

    update = Run._update

    def fragile(self: Run, *arguments: Any) -> torch.Tensor:
        if self.step == 20:
            raise Killed
        return update(self, *arguments)

    monkeypatch.setattr(Run, "_update", fragile)
    with pytest.raises(Killed):
        run(tables, tmp_path / "cut").train(compiled=False, checkpoint_s=0.0)
    monkeypatch.undo()
    again = run(tables, tmp_path / "cut")
    again.train(compiled=False)
    assert again.step == whole.step
    for (name, a), b in zip(whole.model.state_dict().items(), again.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_an_epoch_shows_every_row_once_in_the_order_of_its_seed(tables: list[Rows]) -> None:
    plan = train.epoch(tables, SMALL.batch_tokens, seed=1, number=0)
    seen = np.concatenate([rows for _, rows in plan])
    assert len(set(seen.tolist())) == len(seen)
    assert len(seen) > len(tables[0].ids) - SMALL.batch_tokens // 96
    assert [r.tolist() for _, r in plan] != [r.tolist() for _, r in train.epoch(tables, 960, seed=1, number=1)]
    assert [r.tolist() for _, r in plan] == [r.tolist() for _, r in train.epoch(tables, 960, seed=1, number=0)]


def test_the_rate_warms_up_and_falls_to_a_tenth() -> None:
    rates = [train.learning_rate(step, step / 100, SMALL) for step in range(101)]
    assert rates[0] < rates[4] == max(rates)
    assert rates[-1] == pytest.approx(SMALL.lr / 10)


def test_single_questions_are_shown_in_pairs_and_the_last_copy_is_cut() -> None:
    rows = [row(i) for i in range(10)]
    shown = corpus.repeat(rows, 2.5, pairs=0.5)
    assert [len(r["messages"]) for r in shown] == [4] * 5 + [2] * 15
    messages = sorted(m["content"] for r in shown[:5] for m in r["messages"])
    assert messages == sorted(m["content"] for r in rows for m in r["messages"])
    longer = [{"messages": r["messages"] * 2} for r in rows]
    assert corpus.repeat(longer, 2, pairs=1.0) == longer * 2
