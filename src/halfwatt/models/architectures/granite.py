"""Granite's dense form: Llama with multipliers on embedding, attention, residual stream and logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from halfwatt.models.architectures.base import GgufValue
from halfwatt.models.architectures.llama import LlamaLike


class Granite(LlamaLike):
    def head_inputs(self, config: Any, states: torch.Tensor) -> torch.Tensor:
        return states / float(config.logits_scaling)

    def gguf_settings(self, config: Any) -> dict[str, GgufValue]:
        return super().gguf_settings(config) | {
            "embedding_scale": float(config.embedding_multiplier),
            "attention.scale": float(config.attention_multiplier),
            "residual_scale": float(config.residual_multiplier),
            "logit_scale": float(config.logits_scaling),
        }

    def gguf_config(
        self, name: str, keys: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]
    ) -> dict[str, Any] | None:
        rotated = keys.get(
            "rope.scaling.finetuned", True
        )  # llama.cpp's switch for positions; a Granite 4 may have none
        if not rotated or (entries := super().gguf_config(name, keys, tensors)) is None:
            return None
        return entries | {
            "embedding_multiplier": keys["embedding_scale"],
            "attention_multiplier": keys["attention.scale"],
            "residual_multiplier": keys["residual_scale"],
            "logits_scaling": keys["logit_scale"],
        }


ARCHITECTURE = Granite(
    class_name="GraniteForCausalLM", model_type="granite", gguf_name="granite", rotate_neighbours=("granite",)
)
