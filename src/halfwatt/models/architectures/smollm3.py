"""SmolLM3: Llama without rotated positions in every fourth block.

llama.cpp's "smollm3" counts those blocks by itself, so they must stand where it expects them.
"""

from __future__ import annotations

from typing import Any

from halfwatt.models.architectures.llama import LlamaLike


class SmolLM3(LlamaLike):
    def problems(self, config: Any) -> list[str]:
        problems = super().problems(config)
        fourths = [int(number % 4 != 0) for number in range(1, config.num_hidden_layers + 1)]
        if list(config.no_rope_layers[: config.num_hidden_layers]) != fourths:
            problems.append("llama.cpp's smollm3 leaves out the positions in every fourth block, and only there")
        return problems


ARCHITECTURE = SmolLM3(
    class_name="SmolLM3ForCausalLM",
    model_type="smollm3",
    gguf_name="smollm3",
    rope_types=("default", "linear", "yarn"),
    rotate_neighbours=("smollm3",),
    biases=False,
    unprunable={"blocks": "SmolLM3's blocks cannot be dropped: llama.cpp takes every fourth to have no positions"},
)
