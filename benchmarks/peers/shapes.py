"""Models of other sizes with random weights: they show what each runtime costs, and nothing of quality."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from halfwatt import demo
from halfwatt.core.files import new_folder
from halfwatt.models.chat_model import quiet
from halfwatt.models.tokenizer import ChatTokenizer
from halfwatt.runtimes.base import OperatingPoint

SHAPES = {"135M": (49152, 576, 1536, 30, 9, 3), "1.1B": (32000, 2048, 5632, 22, 32, 4)}  # SmolLM2-135M's, TinyLlama's
"""Vocabulary, width, FFN, blocks, heads, KV heads."""
DIALOGUES = 4  # about so many of the demo's test split
LONGEST = {"135M": 24, "1.1B": 16}
"""Tokens of a reply: the slowest runtime takes a second a token at 1.1B."""
CONTEXT = 512
"""Tokens: half of what all dialogues hold, so that no prefix cache answers a window from the one before."""
SERVED = OperatingPoint(threads=1, threads_prefill=1)
"""Instead of a search of hours: at 135M two threads took 1.25 to 1.8 times as much, and nothing saved more than 4 %."""
_TIED = ("135M",)  # the head is the embedding


def random_model(name: str, to: Path) -> Path:
    """A model folder with the demo's tokenizer, whose tokens are the first of the vocabulary; made once."""
    if not to.exists():
        torch.manual_seed(0)
        tokenizer = ChatTokenizer.load(demo.path())
        vocabulary, width, ffn, blocks, heads, kv_heads = SHAPES[name]
        config = LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            intermediate_size=ffn,
            num_hidden_layers=blocks,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=name in _TIED,
            eos_token_id=tokenizer.eos_ids[0],
            pad_token_id=tokenizer.pad_id,
            bos_token_id=None,
        )
        with new_folder(to) as part, quiet():
            LlamaForCausalLM(config).bfloat16().save_pretrained(part)
            tokenizer.save(part)
    return to
