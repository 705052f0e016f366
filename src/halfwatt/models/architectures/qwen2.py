"""Qwen2: Llama with biases on queries, keys and values.

llama.cpp's "qwen2" takes for granted that heads times their size is the width, which pruning of either ends. Its
"llama" does not, and takes biases: other shapes are written under that name, rows in its order.
"""

from __future__ import annotations

from typing import Any

from halfwatt.models.architectures.llama import LlamaLike


class Qwen2(LlamaLike):
    def gguf_architecture(self, config: Any) -> str:
        square = config.num_attention_heads * self.head_size(config) == config.hidden_size
        return self.gguf_name if square else "llama"


ARCHITECTURE = Qwen2(
    class_name="Qwen2ForCausalLM", model_type="qwen2", gguf_name="qwen2", rope_types=("default", "linear")
)
