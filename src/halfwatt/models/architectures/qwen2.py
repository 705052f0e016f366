"""Qwen2: Llama with biases on queries, keys and values.

llama.cpp's "qwen2" takes for granted that heads times their size is the width, which pruning of either ends. Its
"llama" does not, and takes biases: other shapes are written under that name, rows in its order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from halfwatt.models.architectures.llama import LlamaLike, biased_before_attention_only


class Qwen2(LlamaLike):
    def gguf_architecture(self, config: Any) -> str:
        square = config.num_attention_heads * self.head_size(config) == config.hidden_size
        return self.gguf_name if square else "llama"

    def gguf_config(
        self, name: str, keys: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]
    ) -> dict[str, Any] | None:
        ours = name == "llama" and biased_before_attention_only(tensors)
        return super().gguf_config(self.gguf_name if ours else name, keys, tensors)


ARCHITECTURE = Qwen2(
    class_name="Qwen2ForCausalLM", model_type="qwen2", gguf_name="qwen2", rope_types=("default", "linear", "yarn")
)
