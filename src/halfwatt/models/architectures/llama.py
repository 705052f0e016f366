"""Llama, and what its kin share: gated FFN, grouped query attention, RMS norms, rotated positions.

Some of llama.cpp's architectures rotate neighbouring pairs of a head's values (0,1), (2,3), ... where transformers
rotates (0, d/2), (1, d/2+1), ...: the rows of the query and key projections are put into that order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from halfwatt.models.architectures.base import Architecture, GgufValue

_YARN_RAMP = {"beta_fast": 32.0, "beta_slow": 1.0}  # turns within the trained context between which it goes over


@dataclass(frozen=True, kw_only=True)
class LlamaLike(Architecture):
    """Families that a Llama can stand for."""

    rope_types: tuple[str, ...] = ("default", "linear", "llama3", "yarn")  # scalings that llama.cpp computes alike
    rotate_neighbours: tuple[str, ...] = ("llama",)  # of the architectures in llama.cpp that it may be written as
    norm_eps: str = "rms_norm_eps"  # the config's entry
    windows: bool = False  # blocks may see a part of the context only
    partial: bool = False  # heads may be rotated in part
    biases: bool = True  # llama.cpp has tensors for those of attention and FFN

    def problems(self, config: Any) -> list[str]:
        problems = []
        if config.hidden_act != "silu":
            problems.append(f"llama.cpp computes SiLU in {self.class_name}, not {config.hidden_act}")
        rope = config.rope_parameters
        if (kind := rope.get("rope_type", "default")) not in self.rope_types:
            problems.append(f"rope scaling {kind} is not exported to GGUF, only {', '.join(self.rope_types)}")
        elif kind == "yarn":
            problems += _yarn_problems(rope)
        if (share := rope.get("partial_rotary_factor", 1.0)) != 1.0 and not self.partial:
            problems.append(f"llama.cpp rotates whole heads, not a partial_rotary_factor of {share:g}")
        if not self.windows and "sliding_attention" in (getattr(config, "layer_types", None) or []):
            problems.append(f"llama.cpp's {self.gguf_name} has no sliding window: set use_sliding_window to false")
        biases = [name for name in ("attention_bias", "mlp_bias") if getattr(config, name, False)]
        if biases and not self.biases:
            problems.append(f"llama.cpp's {self.gguf_name} has no tensors for biases: {biases[0]} must be false")
        return problems

    def gguf_settings(self, config: Any) -> dict[str, GgufValue]:
        return self._settings(config, config.rope_parameters)

    def _settings(self, config: Any, rope: Mapping[str, Any]) -> dict[str, GgufValue]:
        size = self.head_size(config)
        settings: dict[str, GgufValue] = {
            "feed_forward_length": getattr(config, self.ffn_size),
            "attention.head_count_kv": config.num_key_value_heads,
            "attention.layer_norm_rms_epsilon": float(getattr(config, self.norm_eps)),
            "attention.key_length": size,
            "attention.value_length": size,
            "rope.dimension_count": int(size * rope.get("partial_rotary_factor", 1.0)),
            "rope.freq_base": float(rope["rope_theta"]),
        }
        if rope.get("rope_type") == "linear":
            settings |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(rope["factor"])}
        if rope.get("rope_type") == "yarn":
            settings |= _yarn_settings(rope)
        return super().gguf_settings(config) | settings

    def gguf_config(
        self, name: str, keys: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]
    ) -> dict[str, Any] | None:
        if self.gguf_name == "llama" and biased_before_attention_only(tensors):
            return None  # Qwen2's, see there
        if (entries := super().gguf_config(name, keys, tensors)) is None:
            return None
        heads, rope = keys["attention.head_count"], dict[str, Any](rope_type=_scaling_of(keys))
        size = keys.get("attention.key_length", keys["embedding_length"] // heads)
        rope["rope_theta"] = keys.get("rope.freq_base", 1e4)
        if rope["rope_type"] in ("none", "default"):
            rope["rope_type"] = "default"
        else:
            rope["factor"] = _factor_of(keys)
        if rope["rope_type"] == "yarn":
            rope |= _yarn_rope(keys)
        if (turned := keys.get("rope.dimension_count", size)) != size:
            rope["partial_rotary_factor"] = turned / size
        if "rope_freqs.weight" in tensors:
            rope |= _llama3_rope(tensors["rope_freqs.weight"].double(), rope["rope_theta"])
        return entries | {
            "head_dim": size,
            "intermediate_size": keys["feed_forward_length"],
            "num_key_value_heads": keys.get("attention.head_count_kv", heads),
            "rms_norm_eps": keys["attention.layer_norm_rms_epsilon"],
            "rope_parameters": rope,
            "hidden_act": "silu",
            "attention_bias": "blk.0.attn_output.bias" in tensors,
            "mlp_bias": "blk.0.ffn_up.bias" in tensors,
        }

    def gguf_row_order(self, config: Any, module: str, rows: int) -> torch.Tensor | None:
        if self.gguf_architecture(config) not in self.rotate_neighbours or not module.endswith(("q_proj", "k_proj")):
            return None
        return torch.arange(rows).reshape(-1, 2, self.head_size(config) // 2).transpose(1, 2).reshape(-1)

    def gguf_tensors(self, config: Any) -> dict[str, torch.Tensor]:
        """[head size / 2]: what each rotation frequency is divided by, as transformers' "llama3" rope does it."""
        rope, size = config.rope_parameters, self.head_size(config)
        if rope.get("rope_type") != "llama3":
            return {}
        exponents = torch.arange(0, size, 2, dtype=torch.float64) / size
        wavelength = 2 * math.pi * float(rope["rope_theta"]) ** exponents
        trained, factor = float(rope["original_max_position_embeddings"]), float(rope["factor"])
        low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
        smooth = ((trained / wavelength - low) / (high - low)).clamp(0, 1)  # 0 = long waves, slowed down by factor
        return {"rope_freqs.weight": (1 / ((1 - smooth) / factor + smooth)).float()}


def biased_before_attention_only(tensors: Mapping[str, torch.Tensor]) -> bool:
    """Biases on queries, keys and values, and none after the attention."""
    return "blk.0.attn_q.bias" in tensors and "blk.0.attn_output.bias" not in tensors


def _llama3_rope(divisors: torch.Tensor, theta: float) -> dict[str, Any]:
    """The settings of a "llama3" rope from what its frequencies are divided by; see `gguf_tensors`, which it inverts.

    With low_freq_factor 1, as published: only its ratios to the high one and to the trained length can be seen. Between
    the two the smooth share is (trained / wavelength - 1) / (high - 1), a line of which two frequencies give both
    numbers. What they do not give is Llama 3's own.
    """
    factor, size = float(divisors.max()), 2 * len(divisors)
    exponents = torch.arange(0, size, 2, dtype=torch.float64) / size
    waves = theta**-exponents / (2 * math.pi)
    smooth = (1 / divisors - 1 / factor) / (1 - 1 / factor)
    between = ((smooth > 1e-3) & (smooth < 1 - 1e-3)).nonzero()[:, 0]
    trained, high = 8192, 4.0
    if len(between) > 1:
        first, last = between[0], between[-1]
        slope = float((smooth[first] - smooth[last]) / (waves[first] - waves[last]))
        high = round(1 + 1 / float(slope * waves[first] - smooth[first]), 3)
    if len(between):
        trained = round(float((smooth[between[0]] * (high - 1) + 1) / waves[between[0]]))
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": high,
        "original_max_position_embeddings": trained,
    }


def _factor_of(keys: Mapping[str, Any]) -> float:
    """By which positions are scaled; under the key of 2023 too. 1 = they are not."""
    return float(keys.get("rope.scaling.factor") or keys.get("rope.scale_linear") or 1.0)


def _scaling_of(keys: Mapping[str, Any]) -> str:
    """llama.cpp's default is linear, which is none where nothing is scaled."""
    return str(keys.get("rope.scaling.type", "default" if _factor_of(keys) == 1.0 else "linear"))


def _yarn_problems(rope: Mapping[str, Any]) -> list[str]:
    """llama.cpp has whole numbers for the bounds of the ramp, and reads them for Mistral 3 and Grok alone."""
    problems, factor = [], rope.get("factor")
    if not factor or factor <= 1:
        problems.append(f"yarn's factor is to be above 1 for llama.cpp, not {factor}")
    for name, usual in _YARN_RAMP.items():
        if (rope.get(name) or usual) != usual:
            problems.append(f"llama.cpp's yarn has a {name} of {usual:g}, not {rope[name]}")
    return problems if rope.get("truncate", True) else [*problems, "llama.cpp's yarn is the truncated one"]


def _yarn_settings(rope: Mapping[str, Any]) -> dict[str, GgufValue]:
    """llama.cpp multiplies the angles' sines and cosines by 1 + 0.1 ln(factor) (YaRN, Peng et al. 2023, eq. 22) and by
    its attn_factor; transformers by attention_factor, which is the former where nothing else is asked for."""
    factor, usual = float(rope["factor"]), _yarn_scale(float(rope["factor"]))
    scale = rope.get("attention_factor")
    if scale is None:
        one, all_dims = rope.get("mscale"), rope.get("mscale_all_dim")
        scale = _yarn_scale(factor, one) / _yarn_scale(factor, all_dims) if one and all_dims else usual
    return {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": factor,
        "rope.scaling.original_context_length": int(rope["original_max_position_embeddings"]),
        "rope.scaling.attn_factor": float(scale) / usual,
    }


def _yarn_rope(keys: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `_yarn_settings`."""
    factor = float(keys["rope.scaling.factor"])
    trained = keys.get("rope.scaling.original_context_length", keys["context_length"])
    scale = keys.get("rope.scaling.attn_factor", 1.0) * _yarn_scale(factor)
    return {"original_max_position_embeddings": trained, "attention_factor": scale}


def _yarn_scale(factor: float, times: float = 1.0) -> float:
    return 1.0 + 0.1 * times * math.log(factor)


def fresh(vocab_size: int, context: int, sizes: Mapping[str, int]) -> PreTrainedModel:
    """A Llama with tied embeddings, float32, its weights as transformers draws them. sizes: entries of the config."""
    config = AutoConfig.for_model(
        ARCHITECTURE.model_type,
        vocab_size=vocab_size,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id")),
        **sizes,
    )
    network: PreTrainedModel = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    return network.float().eval()  # type: ignore[no-untyped-call,no-any-return]


def outline(vocab_size: int, context: int) -> PreTrainedModel:
    """A Llama without weights, on torch's "meta" device: what students of any tokenizer are made of."""
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1}
    with torch.device("meta"):
        return fresh(vocab_size, context, sizes)


ARCHITECTURE = LlamaLike(class_name="LlamaForCausalLM", model_type="llama", gguf_name="llama")
