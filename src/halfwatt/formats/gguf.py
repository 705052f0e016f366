"""Write a ChatModel as a GGUF file: the grid's integers as they are, everything else in 16 or 32 bits.

    matrix on the grid       Q8_0 or Q4_0 blocks with the same integers and fp16 scales
    other matrix             F16; BF16 or F32 where its values leave f16's range
    position embedding       F32 (llama.cpp adds its rows to f32 activations)
    norm, bias               F32

Names and the meaning of the keys are llama.cpp's. Its "llama" architecture rotates neighbouring pairs of a head's
values (0,1), (2,3), ... where the Hugging Face classes rotate (0, d/2), (1, d/2+1), ...: the rows of the query and key
projections are put into that order, integers and scales alike.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from numpy.typing import NDArray
from transformers import PretrainedConfig, PreTrainedModel

from halfwatt.core.errors import ModelError
from halfwatt.formats.artifact import Part
from halfwatt.formats.gguf_tokenizer import vocabulary, write_tokenizer
from halfwatt.models.architecture import head_size
from halfwatt.models.chat_model import ChatModel
from halfwatt.models.grid import GridTensor, pack
from halfwatt.models.lineage import KeptLayer
from halfwatt.models.weights import Weight, weights

ARCHITECTURES = {
    "LlamaForCausalLM": gguf.MODEL_ARCH.LLAMA,
    "MistralForCausalLM": gguf.MODEL_ARCH.LLAMA,
    "Qwen2ForCausalLM": gguf.MODEL_ARCH.QWEN2,
    "Qwen3ForCausalLM": gguf.MODEL_ARCH.QWEN3,
    "GPT2LMHeadModel": gguf.MODEL_ARCH.GPT2,
}
_F16_MAX = 65504.0
_SAID = {Type.Q4_0: "int4", Type.Q8_0: "int8", Type.F16: "f16", Type.BF16: "bf16", Type.F32: "f32"}
_FILE_TYPES = {
    16: gguf.LlamaFileType.MOSTLY_F16,
    8: gguf.LlamaFileType.MOSTLY_Q8_0,
    4: gguf.LlamaFileType.MOSTLY_Q4_0,
}


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor as it stands in the file: uint8 [rows, bytes] with a ``kind``, or float16/float32."""

    name: str
    data: NDArray[Any]
    kind: Type


@dataclass(frozen=True, slots=True)
class Written:
    """What a file holds. Bytes are of tensors, without the header."""

    kept: tuple[KeptLayer, ...]
    parts: tuple[Part, ...]

    @property
    def size_b(self) -> int:
        """Of all tensors."""
        return sum(part.size_b for part in self.parts)

    @property
    def weights_read_b(self) -> int:
        """By one decode step: all but the tables of which one row is looked up."""
        return sum(part.read_b for part in self.parts)


def write_gguf(model: ChatModel, to: Path) -> Written:
    """Write ``model`` to the file ``to``; it appears whole or not at all.

    Raises:
        ModelError: an architecture, setting or tokenizer that llama.cpp would compute differently; named.
    """
    config = model.network.config
    arch = _architecture(model.network)
    tensors = list(_tensors(model, arch))
    writer = gguf.GGUFWriter(None, gguf.MODEL_ARCH_NAMES[arch])
    writer.add_name(model.source.name)
    writer.add_array("halfwatt.lineage", list(model.lineage) or ["original"])
    _write_settings(writer, config, arch)
    bits = min([16, *(g.bits for g in model.grid.values())])
    writer.add_file_type(_FILE_TYPES[bits])
    if bits < 16:
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    write_tokenizer(writer, vocabulary(model.tokenizer, config.vocab_size), model.tokenizer)
    for tensor in tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.kind)
    _write_whole(writer, to)
    return Written(_kept(model, arch, tensors), _parts(tensors))


def precision(model: ChatModel) -> str:
    """ "f16", "int8", "int4+int8 head", "int4+int8 embedding", or a list where layers differ more than that."""
    if not model.grid:
        return "f16"
    bits: dict[str, set[int]] = {"body": set(), "head": set(), "embedding": set()}
    for weight in weights(model.network):
        if weight.name in model.grid and weight.role != "positions":
            bits[weight.role].add(model.grid[weight.name].bits)
    body, head, embedding = ("/".join(f"int{b}" for b in sorted(found)) for found in bits.values())
    parts = [body, f"{head} head" if head not in ("", body) else "", f"{embedding} embedding"]
    if embedding in ("", head or body):
        parts.pop()
    return "+".join(part for part in parts if part)


def _architecture(network: PreTrainedModel) -> gguf.MODEL_ARCH:
    name = type(network).__name__
    if name not in ARCHITECTURES:
        raise ModelError(
            "no GGUF export for this architecture", got=name, hint=f"there are: {', '.join(ARCHITECTURES)}"
        )
    return ARCHITECTURES[name]


# --- settings ------------------------------------------------------------------------------------------------------


def _write_settings(writer: gguf.GGUFWriter, config: PretrainedConfig, arch: gguf.MODEL_ARCH) -> None:
    writer.add_vocab_size(config.vocab_size)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    if arch == gguf.MODEL_ARCH.GPT2:
        _check_gpt2(config)
        writer.add_context_length(context_length(config))
        writer.add_feed_forward_length(config.n_inner or 4 * config.n_embd)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    _check_gated(config, arch)
    size = head_size(config)
    writer.add_context_length(context_length(config))
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_rope_dimension_count(size)
    rope = config.rope_parameters
    writer.add_rope_freq_base(float(rope["rope_theta"]))
    if rope.get("rope_type") == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(rope["factor"]))


def context_length(config: PretrainedConfig) -> int:
    """Tokens the exported model may see.

    llama.cpp's "llama" has no sliding window (Mistral v0.1). Up to the window's length both attend to the same tokens,
    so the context ends there.
    """
    longest = int(config.max_position_embeddings)
    window = getattr(config, "sliding_window", None) if config.model_type == "mistral" else None
    return longest if window is None else min(longest, int(window))


def kv_b_per_token(config: PretrainedConfig) -> int:
    """Bytes that one token of context adds to an fp16 cache: a key and a value for every layer and KV head."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return int(config.num_hidden_layers * heads * head_size(config) * 2 * 2)


def _check_gpt2(config: PretrainedConfig) -> None:
    if config.activation_function not in ("gelu_new", "gelu_pytorch_tanh"):
        raise ModelError("llama.cpp's gpt2 computes gelu_new", got=config.activation_function)
    if config.scale_attn_by_inverse_layer_idx or not config.scale_attn_weights or config.add_cross_attention:
        raise ModelError("llama.cpp's gpt2 has plain attention only", got="another scaling, or cross-attention")


def _check_gated(config: PretrainedConfig, arch: gguf.MODEL_ARCH) -> None:
    """Refuse what llama.cpp would compute differently."""
    if config.hidden_act != "silu":
        raise ModelError("llama.cpp computes SiLU in this architecture", got=config.hidden_act)
    rope = config.rope_parameters
    allowed = ("default", "linear", "llama3") if arch == gguf.MODEL_ARCH.LLAMA else ("default", "linear")
    if rope.get("rope_type", "default") not in allowed:
        raise ModelError(
            "this rope scaling is not exported to GGUF",
            got=rope["rope_type"],
            hint=f"supported: {', '.join(allowed)}",
        )
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise ModelError("llama.cpp rotates whole heads", got=f"partial_rotary_factor {rope['partial_rotary_factor']}")
    if "sliding_attention" in (getattr(config, "layer_types", None) or []) and config.model_type != "mistral":
        raise ModelError("llama.cpp's qwen has no sliding window", hint="set use_sliding_window to false")


def _llama3_factors(config: PretrainedConfig) -> NDArray[np.float32]:
    """[head size / 2]: what each rotation frequency is divided by, as transformers' "llama3" rope does it."""
    rope, size = config.rope_parameters, head_size(config)
    wavelength = 2 * math.pi * float(rope["rope_theta"]) ** (np.arange(0, size, 2) / size)
    old, factor = float(rope["original_max_position_embeddings"]), float(rope["factor"])
    low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
    smooth = np.clip((old / wavelength - low) / (high - low), 0.0, 1.0)  # 0 = long waves, slowed down by factor
    return (1.0 / ((1.0 - smooth) / factor + smooth)).astype(np.float32)


# --- tensors -------------------------------------------------------------------------------------------------------


def _tensors(model: ChatModel, arch: gguf.MODEL_ARCH) -> Iterator[Tensor]:
    config = model.network.config
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    matrices = {w.name: w for w in weights(model.network)}
    for name, parameter in model.network.named_parameters():
        stem, _, suffix = name.rpartition(".")
        mapped = names.get_name(stem)
        if mapped is None:
            raise ModelError("a tensor that this architecture does not have in GGUF", got=name)
        order = _row_order(stem, parameter.shape[0], config) if arch == gguf.MODEL_ARCH.LLAMA else None
        if name in matrices:
            data, kind = _matrix(matrices[name], model.grid.get(name), order)
        else:
            data, kind = _ordered(parameter.detach(), order).float().numpy(force=True), Type.F32
        yield Tensor(f"{mapped}.{suffix}", data, kind)
    if arch == gguf.MODEL_ARCH.LLAMA and config.rope_parameters.get("rope_type") == "llama3":
        yield Tensor("rope_freqs.weight", _llama3_factors(config), Type.F32)


def _row_order(stem: str, rows: int, config: PretrainedConfig) -> torch.Tensor | None:
    """For each row of a GGUF query or key projection, the row of the network's that stands there."""
    if not stem.endswith(("q_proj", "k_proj")):
        return None
    half = head_size(config) // 2
    return torch.arange(rows).reshape(-1, 2, half).transpose(1, 2).reshape(-1)


def _ordered(tensor: torch.Tensor, order: torch.Tensor | None) -> torch.Tensor:
    return tensor if order is None else tensor[order.to(tensor.device)]


def _matrix(weight: Weight, grid: GridTensor | None, order: torch.Tensor | None) -> tuple[NDArray[Any], Type]:
    if grid is not None:
        rows = GridTensor(_ordered(grid.q, order), _ordered(grid.scale, order), grid.bits)
        return pack(rows).numpy(force=True), Type.Q8_0 if grid.bits == 8 else Type.Q4_0
    values = _ordered(weight.rows(), order)
    if not torch.isfinite(values).all():
        raise ModelError("a weight is not finite", got=weight.name)
    if weight.role == "positions":
        return values.float().numpy(force=True), Type.F32
    if float(values.abs().max()) <= _F16_MAX:
        return values.to(torch.float16).contiguous().numpy(force=True), Type.F16
    if values.dtype == torch.bfloat16:
        return values.contiguous().view(torch.uint8).numpy(force=True), Type.BF16
    return values.float().contiguous().numpy(force=True), Type.F32


def _kept(model: ChatModel, arch: gguf.MODEL_ARCH, tensors: list[Tensor]) -> tuple[KeptLayer, ...]:
    """What stayed at higher precision than asked, as which type: off the grid, or outside f16's range."""
    names = gguf.get_tensor_name_map(arch, model.network.config.num_hidden_layers)
    kinds = {t.name: t.kind for t in tensors}
    reasons = {k.tensor: k.reason for k in model.kept}
    found = []
    for weight in weights(model.network):
        kind = kinds[f"{names.get_name(weight.name.removesuffix('.weight'))}.weight"]
        reason = reasons.get(weight.name)
        if weight.role != "positions" and kind in (Type.BF16, Type.F32):
            reason = f"values beyond f16's {_F16_MAX:.0f}" + ("" if reason is None else f"; {reason}")
        if reason is not None:
            found.append(KeptLayer(weight.name, kind.name.lower(), reason))
    return tuple(found)


def _parts(tensors: list[Tensor]) -> tuple[Part, ...]:
    """The tensors by where a pass meets them. Of a table a decode step reads one row, unless it is the head too."""
    tied = not any(t.name == "output.weight" for t in tensors)
    looked_up = ("position_embd.weight",) if tied else ("position_embd.weight", "token_embd.weight")
    found: dict[str, list[Tensor]] = {}
    for tensor in tensors:
        found.setdefault(_part_of(tensor.name, tied), []).append(tensor)
    made = []
    for name, some in found.items():
        kinds = sorted({_SAID[t.kind] for t in some if t.data.ndim > 1} or {_SAID[t.kind] for t in some})
        read_b = sum(t.data.nbytes for t in some if t.name not in looked_up)
        made.append(Part(name, "/".join(kinds), sum(t.data.nbytes for t in some), read_b))
    return tuple(made)


def _part_of(tensor: str, tied: bool) -> str:
    """``blk.3.ffn_up.weight`` belongs to "block 3, FFN"."""
    if tensor.startswith("blk."):
        _, number, rest = tensor.split(".", 2)
        return f"block {number}, {'FFN' if rest.startswith('ffn') else 'attention'}"
    if tensor.startswith(("token_embd", "position_embd")):
        return "embedding and head" if tied and tensor.startswith("token") else "embedding"
    return "head" if tensor.startswith("output.") else "last norm"


def _write_whole(writer: gguf.GGUFWriter, to: Path) -> None:
    """Write under a temporary name, flush to the disk, rename."""
    part = to.with_name(to.name + ".part")
    try:
        writer.write_header_to_file(part)
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        with part.open("rb") as written:
            os.fsync(written.fileno())
        part.replace(to)
    finally:
        part.unlink(missing_ok=True)
