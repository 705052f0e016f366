"""Qwen3: Llama with a norm over each query and key head."""

from __future__ import annotations

from halfwatt.models.architectures.llama import LlamaLike

ARCHITECTURE = LlamaLike(
    class_name="Qwen3ForCausalLM",
    model_type="qwen3",
    gguf_name="qwen3",
    rope_types=("default", "linear", "yarn"),
    biases=False,
)
