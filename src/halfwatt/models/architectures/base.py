"""All that halfwatt knows of one family of decoders: one object each, and nobody else asks for a model's type.

A family is a module of this package with its object in ``ARCHITECTURE`` (see registry.py) and a row in
tests/contracts/architectures.py. Module names are relative to a block, entries of the config are transformers'.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
from torch import nn
from transformers import PreTrainedModel

Dimension = Literal["width", "ffn", "kv_heads", "blocks"]  # what can be pruned
GgufValue = int | float | str | bool | list[int] | list[bool]


@dataclass(frozen=True, slots=True)
class Placement:
    """A parameter of the network, or some rows of it, in a GGUF file.

    name:     as gguf's table of names knows it: a parameter's, which need not be the network's own
    rows:     for each row there, the network's that it is, int64 [rows]; None = all, in order
    columns:  likewise, in whole groups of the grid
    """

    name: str
    rows: torch.Tensor | None = None
    columns: torch.Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Architecture(ABC):
    """Rows of ``ffn_in`` are neurons, columns of ``ffn_out`` likewise. The defaults are Llama's, as most have them.

    Blocks may be of several kinds, the config's ``layer_types``: what a block does not have of these is left out there.

    blocks_name:      the list of blocks in the network's base model
    final_norm_name:  the norm between the last block and the head, there too
    ffn_in:           one matrix with twice the rows holds those of the gate, then those of up
    queries:          its rows go by KV head; None = queries, keys and values are one matrix, which cannot lose heads
    other_out:        what writes into the residual stream where attention_out does in other kinds of block
    norms:            each norm of the residual stream in a block, and what alone reads its outputs
    post_norms:       norms of what a block adds to the residual stream
    norm_offset:      what all norms add to their weight before they multiply by it
    up:               a matrix whose outputs reach ffn_out multiplied by a gate and nothing else
    ffn_size:         the config's entry for the number of neurons
    transposed:       the blocks' matrices are stored [in, out]
    stateful:         kinds of block that keep a state of one size, which takes no token back, and no keys and values
    unprunable:       what cannot be pruned, and why
    reads_gguf:       a file of it is opened; else it can only be run: no inverse of its order has been written yet
    around:           class and model_type of a model for images too, out of which transformers takes this one
    """

    class_name: str  # of the network, in transformers and in config.json
    model_type: str
    gguf_name: str  # llama.cpp's architecture
    blocks_name: str = "layers"
    final_norm_name: str = "norm"
    ffn_in: tuple[str, ...] = ("mlp.gate_proj", "mlp.up_proj")
    ffn_out: str = "mlp.down_proj"
    queries: str | None = "self_attn.q_proj"
    keys_values: tuple[str, ...] = ("self_attn.k_proj", "self_attn.v_proj")
    attention_out: str = "self_attn.o_proj"
    other_out: tuple[str, ...] = ()
    norms: tuple[tuple[str, tuple[str, ...]], ...] = (
        ("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
        ("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj")),
    )
    post_norms: tuple[str, ...] = ()
    norm_offset: float = 0.0
    up: str | None = "mlp.up_proj"
    ffn_size: str = "intermediate_size"
    transposed: bool = False
    stateful: tuple[str, ...] = ()
    unprunable: Mapping[Dimension, str] = field(default_factory=dict)
    reads_gguf: bool = True
    around: tuple[str, str] | None = None

    def blocks(self, network: PreTrainedModel) -> nn.ModuleList:
        """The blocks, first to last; the very list that the network runs through."""
        return cast(nn.ModuleList, network.base_model.get_submodule(self.blocks_name))

    def set_blocks(self, network: PreTrainedModel, blocks: list[nn.Module]) -> None:
        """Let it run through these blocks, in place. For passes without a cache: indices stay as they were."""
        setattr(network.base_model, self.blocks_name, nn.ModuleList(blocks))

    def blocks_prefix(self, network: PreTrainedModel) -> str:
        """What the names of a block's parameters begin with, before its number."""
        return f"{network.base_model_prefix}.{self.blocks_name}."

    def final_norm(self, network: PreTrainedModel) -> nn.Module:
        """The norm between the last block and the head."""
        return network.base_model.get_submodule(self.final_norm_name)

    def head_inputs(self, config: Any, states: torch.Tensor) -> torch.Tensor:  # noqa: ARG002 - families scale by it
        """What the head multiplies: the outputs of the final norm, ``states``, scaled where the family does so."""
        return states

    def rows(self, module: nn.Module) -> torch.Tensor:
        """The weight of a block's matrix as [out, in]; a view."""
        return cast(torch.Tensor, module.weight.T if self.transposed else module.weight).detach()

    def modules(self, block: nn.Module, names: Iterable[str]) -> list[nn.Module]:
        """Those of ``names`` that this block has."""
        own = dict(block.named_modules())
        return [own[name] for name in names if name in own]

    def kinds(self, config: Any) -> list[str]:
        """The kind of each block."""
        kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
        return list(kinds[: config.num_hidden_layers])

    def config_entries(self, sizes: dict[str, Any]) -> dict[str, Any]:
        """``sizes``, entries of the config, with what has to change beside them."""
        return sizes

    def entries_for_4(self, config: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG002 - some families need it
        """What transformers 4 reads otherwise of a ``config`` that 5 wrote, in words that both know."""
        return {}

    def may_be_zero(self, parameter: str) -> bool:
        """Is it a matrix that writes into the residual stream? A block that was added to change nothing has zeros
        there; elsewhere they are those of a file that was never written."""
        adds = (self.ffn_out, self.attention_out, *self.other_out)
        return parameter.removesuffix(".weight").endswith(tuple(f".{name}" for name in adds))

    def ffn_width(self, network: PreTrainedModel) -> int:
        """Neurons of each FFN."""
        return self.rows(self.blocks(network)[0].get_submodule(self.ffn_out)).shape[1]

    def head_size(self, config: Any) -> int:
        """Values of one attention head."""
        return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)

    def kv_heads(self, config: Any) -> int:
        """Heads whose keys and values are kept, in each block."""
        return int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)

    def kv_numbers(self, config: Any) -> int:
        """Numbers that one token adds to the KV cache: a key and a value in every KV head of the blocks that attend.

        Blocks with a sliding window count like others: llama.cpp keeps their whole past unless told otherwise.
        """
        attending = [kind for kind in self.kinds(config) if kind not in self.stateful]
        return 2 * len(attending) * self.kv_heads(config) * self.head_size(config)

    def context_length(self, config: Any) -> int:
        """Tokens that a file for llama.cpp may see and still be computed as transformers computes it."""
        return int(config.max_position_embeddings)

    @abstractmethod
    def problems(self, config: Any) -> list[str]:
        """What llama.cpp would compute differently, or cannot hold; empty = it computes the same."""

    def _unmixed(self, config: Any) -> list[str]:
        """The problem of a network with blocks of one kind alone, where llama.cpp has memory for two."""
        stateful = {kind in self.stateful for kind in self.kinds(config)}
        return [] if len(stateful) == 2 else [f"llama.cpp's {self.gguf_name} needs blocks of both kinds"]

    def gguf_architecture(self, config: Any) -> str:  # noqa: ARG002 - some families have shapes that need another
        """The architecture under which llama.cpp computes this network."""
        return self.gguf_name

    def gguf_settings(self, config: Any) -> dict[str, GgufValue]:
        """The keys of a GGUF file that say how to compute, without the architecture before their names."""
        return {
            "vocab_size": config.vocab_size,
            "embedding_length": config.hidden_size,
            "block_count": config.num_hidden_layers,
            "attention.head_count": config.num_attention_heads,
            "context_length": self.context_length(config),
        }

    def gguf_placements(self, config: Any, name: str, shape: torch.Size) -> tuple[Placement, ...]:
        """Where a parameter of the network goes in such a file; more than one where its rows are parted."""
        return (Placement(name, self.gguf_row_order(config, name.rpartition(".")[0], shape[0])),)

    def gguf_values(self, name: str, values: torch.Tensor) -> torch.Tensor:
        """Float32 values of a parameter that is no matrix, as such a file has them."""
        is_norm = name.endswith(("norm.weight", "norm.bias")) and self.norm_offset != 0
        return values + self.norm_offset if is_norm else values

    def values_of_gguf(self, name: str, values: torch.Tensor) -> torch.Tensor:
        """The inverse of `gguf_values`, for families whose files are read."""
        is_norm = name.endswith(("norm.weight", "norm.bias")) and self.norm_offset != 0
        return values - self.norm_offset if is_norm else values

    def gguf_config(
        self, name: str, keys: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]
    ) -> dict[str, Any] | None:
        """The config's entries as a file says them, the inverse of `gguf_settings`; None = a file of another family.

        name:     llama.cpp's architecture
        keys:     those of `gguf_settings`; a KeyError is the reader's to report
        tensors:  by their names there; what is looked up is read
        """
        if name != self.gguf_name:
            return None
        return {
            "vocab_size": keys["vocab_size"],
            "hidden_size": keys["embedding_length"],
            "num_hidden_layers": keys["block_count"],
            "num_attention_heads": keys["attention.head_count"],
            "max_position_embeddings": keys["context_length"],
            "tie_word_embeddings": "output.weight" not in tensors,
        }

    def gguf_row_order(self, config: Any, module: str, rows: int) -> torch.Tensor | None:  # noqa: ARG002 - see above
        """For each row of a module there, the row of the network's that it is; None = the same ones. int64 [rows]."""
        return None

    def gguf_tensors(self, config: Any) -> dict[str, torch.Tensor]:  # noqa: ARG002 - see above
        """Float32 tensors that only such a file has, by name."""
        return {}
