"""torchao: the weights of every linear layer as integers, in transformers, eager and compiled."""

from __future__ import annotations

import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers.loop import TransformersSession
from benchmarks.peers.serving import FILES, Description, Order, group_size, main
from halfwatt.runtimes.serving_process import ServingSpec

COMPILED = ", compiled"
KINDS = ("int8", f"int8{COMPILED}", "int4", f"int4{COMPILED}")


def make(order: Order) -> Description:
    """A copy of the model: torchao quantizes what transformers has loaded."""
    shutil.copytree(order.model, order.to)
    network = load_network(order.to, order.kind)
    embedding = network.get_input_embeddings().weight
    stored = {id(weight): _bytes(weight) for weight in network.state_dict().values()}
    size = sum(stored.values())
    return Description(f"torchao {version('torchao')}", size, size - _bytes(embedding))


def load_network(folder: Path, kind: str) -> Any:
    """The network with its linear layers quantized, the head too."""
    from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig
    from torchao.quantization import Int8WeightOnlyConfig, quantize_
    from transformers import AutoModelForCausalLM

    network: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    head = network.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.detach().clone())  # the embedding stays as it is
    bits = kind.partition(",")[0]
    int4 = PrototypeInt4WeightOnlyConfig(group_size=group_size(folder))
    quantize_(network, Int8WeightOnlyConfig() if bits == "int8" else int4)
    return network.eval()


def _bytes(weight: Any) -> int:
    """Of the plain tensors that it consists of."""
    if type(weight) in (torch.Tensor, torch.nn.Parameter):
        return int(weight.untyped_storage().nbytes())
    names, _ = weight.__tensor_flatten__()
    return sum(_bytes(getattr(weight, name)) for name in names)


def session(spec: ServingSpec) -> TransformersSession:
    """As its kind is served."""
    kind = spec.artifact.precision
    return TransformersSession(spec, load_network(spec.artifact.path / FILES, kind), compiled=kind.endswith(COMPILED))


if __name__ == "__main__":
    main(make, session)
