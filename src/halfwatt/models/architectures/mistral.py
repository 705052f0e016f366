"""Mistral: Llama, in v0.1 with a sliding window, which llama.cpp's "llama" does not have.

Up to the window's length both attend to the same tokens, so a file's context ends there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from halfwatt.models.architectures.llama import LlamaLike


class Mistral(LlamaLike):
    def context_length(self, config: Any) -> int:
        longest = super().context_length(config)
        return longest if config.sliding_window is None else min(longest, int(config.sliding_window))

    def gguf_config(
        self, _name: str, _keys: Mapping[str, Any], _tensors: Mapping[str, torch.Tensor]
    ) -> dict[str, Any] | None:
        """A file of it says "llama" and is computed as one: it is read as a Llama."""
        return None


ARCHITECTURE = Mistral(class_name="MistralForCausalLM", model_type="mistral", gguf_name="llama", windows=True)
