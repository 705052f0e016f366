"""Qwen3: Llama with a norm over each query and key head. llama.cpp's "qwen3" has no tensors for attention biases."""

from __future__ import annotations

from typing import Any

from halfwatt.models.architectures.llama import LlamaLike


class Qwen3(LlamaLike):
    def problems(self, config: Any) -> list[str]:
        biases = ["llama.cpp's qwen3 has no biases in its attention: attention_bias must be false"]
        return super().problems(config) + (biases if config.attention_bias else [])


ARCHITECTURE = Qwen3(
    class_name="Qwen3ForCausalLM", model_type="qwen3", gguf_name="qwen3", rope_types=("default", "linear")
)
