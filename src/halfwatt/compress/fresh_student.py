"""A student of given sizes: a network of the original's kind with random weights, to be taught by it.

Pruning keeps what the original knows; a fresh network is what pruning is compared with, and what reaches sizes that no
cut of the original has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import torch

from halfwatt.compress.base import Stage, Step, StepContext
from halfwatt.compress.prune import WIDTH
from halfwatt.dialogues.dialogue import Dialogue
from halfwatt.models.chat_model import ChatModel
from halfwatt.models.surgery import resized, resized_config


@dataclass(frozen=True, slots=True)
class Student(Step):
    """Begin anew with a smaller network; what is None stays as in the original.

    layers:    blocks
    width:     residual channels (hidden size), a multiple of 64
    ffn:       FFN neurons, a multiple of 64
    heads:     query heads, of the original's size (GPT-2: of width / heads)
    kv_heads:  KV heads, a divisor of ``heads``
    """

    layers: int | None = None
    width: int | None = None
    ffn: int | None = None
    heads: int | None = None
    kv_heads: int | None = None

    name: ClassVar[str] = "student"
    opens: ClassVar[bool] = False
    stage: ClassVar[Stage] = Stage.STRUCTURE

    def problems(self, model: ChatModel) -> list[str]:
        given: dict[str, int] = {f.name: size for f in fields(self) if (size := getattr(self, f.name)) is not None}
        problems = [f"{name} must be above 0, not {size}" for name, size in given.items() if size <= 0]
        if problems:
            return problems
        uneven = [name for name in ("width", "ffn") if given.get(name, 0) % WIDTH]
        problems += [f"{name} must be a multiple of {WIDTH}, not {given[name]}" for name in uneven]
        config, own = model.network.config, model.architecture
        one_matrix = own.queries is None  # as many KV heads as query heads, their size from the width
        heads = given.get("heads", config.num_attention_heads)
        width, groups = given.get("width", config.hidden_size), given.get("kv_heads", own.kv_heads(config))
        if one_matrix and self.kv_heads is not None:
            problems.append(own.unprunable["kv_heads"])
        elif not one_matrix and heads % groups:
            problems.append(f"{heads} query heads cannot share {groups} KV heads")
        if one_matrix and width % heads:
            problems.append(f"{heads} heads cannot share a width of {width}")
        if model.grid:
            problems.append("the model is on the integer grid already")
        return problems or own.problems(resized_config(config, self.sizes(model)))

    def sizes(self, model: ChatModel, _dialogues: Sequence[Dialogue] = ()) -> dict[str, Any]:
        own = model.architecture
        changes: dict[str, Any] = {
            "num_hidden_layers": self.layers,
            "hidden_size": self.width,
            own.ffn_size: self.ffn,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": None if own.queries is None else own.head_size(model.network.config),
        }
        return {name: value for name, value in changes.items() if value is not None}

    def apply(self, model: ChatModel, context: StepContext) -> ChatModel:
        """Draw the weights, by the context's seed, as transformers draws them."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.settings.seed)
            network = resized(model.network, self.sizes(model))
        summary = f"a new student of {sum(p.numel() for p in network.parameters()) / 1e6:.2f}M parameters"
        return replace(model, network=network, lineage=(*model.lineage, summary), run_only="")
