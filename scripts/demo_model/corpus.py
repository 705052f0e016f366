"""The demo model's training data as arrays: one dialogue a row, padded at the end, in a few lengths.

    ids      uint16 [rows, length]
    weight   uint8  [rows, length]   2 = the assistant's words and end of turn, 1 = the user's, 0 = neither

With causal attention nothing looks at the padding, so no mask is needed and positions are those of inference.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scripts.demo_model import prepare

if TYPE_CHECKING:
    from tokenizers import Tokenizer

LENGTHS = (96, 192, 320, 512)  # few, because every one is compiled; a longer dialogue loses its end
SPECIAL = ("<|pad|>", "<|im_start|>", "<|im_end|>", "<|endoftext|>")
PAD, START, END = 0, 1, 2
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rows:
    """Dialogues of one padded length; shapes as in the module's docstring."""

    ids: NDArray[np.uint16]
    weight: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Mix:
    """What an epoch shows: copies of each source, and the share of a single-question source's copies made of pairs."""

    shares: Mapping[str, float]
    pairs: float = 0.0


def prepare_arrays(data: Path, work: Path, mix: Mix, tokenizer: Path | int) -> None:
    """Tokenizer and packed rows of the four sources under ``data``; made once.

    Args:
        tokenizer: an earlier stage's ``tokenizer.json``, or the size of the vocabulary to train.
    """
    from tokenizers import Tokenizer

    work.mkdir(parents=True, exist_ok=True)
    rows = prepare.corpus(data)
    if isinstance(tokenizer, Path):
        bpe = Tokenizer.from_file(str(tokenizer))
    else:
        texts = (m["content"] for source in rows.values() for row in source for m in row["messages"])
        bpe = train_tokenizer(texts, tokenizer)
    bpe.save(str(work / "tokenizer.json"))
    train_rows = [row for source, times in mix.shares.items() for row in repeat(rows[source], times, mix.pairs)]
    save(table([encode(bpe, row) for row in train_rows]), work / "train.npz")
    tune_rows = prepare.tune(data)
    for source in mix.shares:
        save(table([encode(bpe, row) for row in tune_rows if row["source"] == source]), work / f"tune.{source}.npz")


def repeat(rows: Sequence[Row], times: float, pairs: float = 0.0) -> list[Row]:
    """``times`` copies of the rows, the last copy cut short; of single questions a share of ``pairs`` made of pairs."""
    whole = int(times)
    single = all(len(row["messages"]) == 2 for row in rows)
    pair_copies = round(whole * pairs) if single else 0
    copies = [pair_up(rows, seed) if seed < pair_copies else list(rows) for seed in range(whole)]
    return [row for copy in copies for row in copy] + list(rows[: round((times - whole) * len(rows))])


def pair_up(rows: Sequence[Row], seed: int) -> list[Row]:
    """The rows shuffled, two to a dialogue."""
    order = np.random.default_rng(seed).permutation(len(rows))
    pairs = zip(order[::2], order[1::2], strict=False)
    return [{**rows[a], "messages": rows[a]["messages"] + rows[b]["messages"]} for a, b in pairs]


def save(tables: Sequence[Rows], path: Path) -> None:
    """Write as npz, one pair of arrays a length."""
    np.savez_compressed(
        path, **{f"{name}{k}": getattr(rows, name) for k, rows in enumerate(tables) for name in ("ids", "weight")}
    )


def load(path: Path) -> list[Rows]:
    """Read back."""
    with np.load(path) as stored:
        return [Rows(stored[f"ids{k}"], stored[f"weight{k}"]) for k in range(len(stored.files) // 2)]


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """A byte-level BPE with GPT-2's splitting rule, which llama.cpp knows by that name."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def encode(tokenizer: Tokenizer, row: Row) -> tuple[list[int], list[int]]:
    """(token ids, loss weights) of one dialogue in the ChatML template; equal to encoding the rendered text."""
    ids: list[int] = []
    weights: list[int] = []
    newline = tokenizer.encode("\n").ids
    for message in row["messages"]:
        head = tokenizer.encode(message["role"] + "\n").ids
        body = tokenizer.encode(message["content"]).ids
        mine = 2 if message["role"] == "assistant" else 1
        ids += [START, *head, *body, END, *newline]
        weights += [0] * (1 + len(head)) + [mine] * (len(body) + 1) + [0] * len(newline)
    return ids, weights


def table(dialogues: Sequence[tuple[list[int], list[int]]]) -> list[Rows]:
    """Sort dialogues into the shortest length that holds them."""
    return [
        _rows([d for d in dialogues if low < min(len(d[0]), LENGTHS[-1]) <= high], high)
        for low, high in zip((0, *LENGTHS), LENGTHS, strict=False)
    ]


def _rows(dialogues: Sequence[tuple[list[int], list[int]]], length: int) -> Rows:
    shape = (len(dialogues), length)
    ids, weight = np.full(shape, PAD, np.uint16), np.zeros(shape, np.uint8)
    for row, dialogue in enumerate(dialogues):
        tokens, weights = (part[:length] for part in dialogue)
        ids[row, : len(tokens)], weight[row, : len(tokens)] = tokens, weights
    return Rows(ids, weight)
