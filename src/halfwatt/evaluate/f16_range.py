"""Where a runtime's 16-bit floats are too narrow for what a network computes, though its weights fit them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from halfwatt.dialogues.dialogue import Dialogue
from halfwatt.formats.gguf import F16_MAX
from halfwatt.models.chat_model import ChatModel
from halfwatt.models.exact_network import exact_network
from halfwatt.models.grid import limits
from halfwatt.models.weights import device_of, weights


def inputs_beyond_f16(model: ChatModel, dialogues: Sequence[Dialogue]) -> frozenset[str]:
    """Names of weights whose inputs, on some of ``dialogues``, leave what llama.cpp keeps them in before it multiplies:
    f16 beside a matrix of 16 bits, int8 times a scale in f16 beside one on the grid."""
    network, beyond = exact_network(model), set[str]()
    most = {w.name: F16_MAX * (limits(8)[1] if w.name in model.grid else 1) for w in weights(model.network)}
    tied = next((w.name for w in weights(model.network) if w.role == "head"), "")

    def watch(weight: str, module: nn.Module) -> None:
        def look(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
            if float(inputs[0].abs().max()) > most[weight]:
                beyond.add(weight)

        module.register_forward_pre_hook(look)

    head: nn.Module = network.get_output_embeddings()  # type: ignore[no-untyped-call]
    for name, module in network.named_modules():
        weight = tied if module is head else f"{name}.weight"
        if weight in most and not isinstance(module, nn.Embedding):
            watch(weight, module)
    longest, device = model.architecture.context_length(model.network.config), device_of(model.network)
    with torch.inference_mode():
        for dialogue in dialogues:
            ids = model.tokenizer.encode(model.tokenizer.render(dialogue, prompt=False))
            network(input_ids=torch.tensor([ids[:longest]], device=device), use_cache=False)
    return frozenset(beyond)
