"""Models of other sizes with random weights: they show what each runtime costs, and nothing of quality."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from halfwatt import demo
from halfwatt.chat_model import quiet
from halfwatt.files import new_folder
from halfwatt.tokenizer import ChatTokenizer

SHAPES = {
    "135M": LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
    ),  # SmolLM2-135M's
    "1.1B": LlamaConfig(
        vocab_size=32000,
        hidden_size=2048,
        intermediate_size=5632,
        num_hidden_layers=22,
        num_attention_heads=32,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
    ),  # TinyLlama's
}


def made(name: str, to: Path) -> Path:
    """A model folder with the demo's tokenizer, whose tokens are the first of the vocabulary; made once."""
    if not to.exists():
        torch.manual_seed(0)
        tokenizer = ChatTokenizer.load(demo.path())
        config = SHAPES[name]
        config.eos_token_id, config.pad_token_id, config.bos_token_id = tokenizer.eos_ids[0], tokenizer.pad_id, None
        with new_folder(to) as part, quiet():
            LlamaForCausalLM(config).bfloat16().save_pretrained(part)
            tokenizer.save(part)
    return to
