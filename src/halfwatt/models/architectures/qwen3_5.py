"""Qwen3.5's text model: three blocks of four keep a state by the gated delta rule, each fourth attends, with a gate.

1 is added to the weights of norms, but for the one inside linear attention. A state has one size however long the
dialogue, so the KV cache is that of the attending blocks alone; reading the states, the same for every token, is not
counted. Where several value heads share a key head, llama.cpp wants the value heads in another order: all first ones,
all second ones, ..., so rows and columns of linear attention are put into it.
"""

from __future__ import annotations

from typing import Any

import torch

from halfwatt.models.architectures.base import GgufValue, Placement
from halfwatt.models.architectures.llama import LlamaLike
from halfwatt.models.grid import GROUP

_SECTIONS = (11, 11, 10)  # of a head's rotation among the axes of an image; all say the same of text


class Qwen35(LlamaLike):
    def problems(self, config: Any) -> list[str]:
        problems = super().problems(config) + self._unmixed(config)
        if config.linear_key_head_dim != config.linear_value_head_dim or config.linear_value_head_dim % GROUP:
            problems.append(f"linear attention needs key and value heads of one size, a multiple of {GROUP}")
        return problems

    def gguf_settings(self, config: Any) -> dict[str, GgufValue]:
        return super().gguf_settings(config) | {
            "rope.dimension_sections": [*config.rope_parameters.get("mrope_section", _SECTIONS), 0],
            "attention.recurrent_layers": [kind == "linear_attention" for kind in self.kinds(config)],
            "ssm.conv_kernel": config.linear_conv_kernel_dim,
            "ssm.state_size": config.linear_key_head_dim,
            "ssm.group_count": config.linear_num_key_heads,
            "ssm.time_step_rank": config.linear_num_value_heads,
            "ssm.inner_size": config.linear_num_value_heads * config.linear_value_head_dim,
        }

    def gguf_placements(self, config: Any, name: str, shape: torch.Size) -> tuple[Placement, ...]:
        module, _, part = name.rpartition("linear_attn.")
        if not module:
            return super().gguf_placements(config, name, shape)
        size, values = config.linear_value_head_dim, config.linear_num_value_heads
        order = torch.arange(values).reshape(config.linear_num_key_heads, -1).T.reshape(-1)  # of value heads
        spans = (order[:, None] * size + torch.arange(size)).reshape(-1)
        if part in ("dt_bias", "A_log"):
            return (Placement(f"{module}linear_attn.dt_proj.bias" if part == "dt_bias" else name, order),)
        if part in ("in_proj_a.weight", "in_proj_b.weight"):
            return (Placement(name, order),)
        if part == "out_proj.weight":
            return (Placement(name, columns=spans),)
        if part == "norm.weight":
            return (Placement(name),)
        before = shape[0] - len(spans)  # queries and keys, where they stand in one matrix with the values
        return (Placement(name, torch.cat([torch.arange(before), before + spans])),)

    def gguf_values(self, name: str, values: torch.Tensor) -> torch.Tensor:
        if name.endswith("A_log"):
            return -values.exp()
        if "linear_attn." in name:
            return values.squeeze(1) if values.ndim == 3 else values
        return super().gguf_values(name, values)


ARCHITECTURE = Qwen35(
    class_name="Qwen3_5ForCausalLM",
    model_type="qwen3_5_text",
    gguf_name="qwen35",
    reads_gguf=False,
    around=("Qwen3_5ForConditionalGeneration", "qwen3_5"),
    other_out=("linear_attn.out_proj",),
    norms=(
        (
            "input_layernorm",
            (
                *("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
                *(f"linear_attn.in_proj_{name}" for name in ("qkv", "z", "b", "a")),
            ),
        ),
        ("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj")),
    ),
    norm_offset=1.0,
    stateful=("linear_attention",),
    rope_types=("default",),
    rotate_neighbours=(),
    partial=True,
    biases=False,
)
