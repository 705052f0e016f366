"""The demo model's training data as arrays: one dialogue a row, padded at the end, in a few lengths.

    ids      uint16 [rows, length]
    weight   uint8  [rows, length]   2 = the assistant's words and end of turn, 1 = the user's, 0 = neither

With causal attention nothing looks at the padding, so no mask is needed and positions are those of inference.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

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
