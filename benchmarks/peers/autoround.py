"""AutoRound: W4A16, its rounding tuned on the dialogues, in its own format and served by its own kernels for CPUs."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import torch

from benchmarks.peers.loop import TransformersSession
from benchmarks.peers.serving import FILES, Description, Order, group_size, main
from halfwatt.runtimes.serving_process import ServingSpec

KINDS = ("W4A16",)
_TEXTS, _EACH, _LENGTH = 128, 8, 512  # texts to calibrate on, dialogues joined in each, tokens of it that are read


def make(order: Order) -> Description:
    """With its documented defaults, but for the texts: its own are fetched from a hub, and longer than the context."""
    from auto_round import AutoRound
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(order.model)
    dialogues = order.dialogues(_TEXTS * _EACH)
    texts = ["".join(dialogues[i : i + _EACH]) for i in range(0, len(dialogues), _EACH)]
    options: dict[str, Any] = {"dataset": texts, "seqlen": _LENGTH} if texts else {"iters": 0, "disable_opt_rtn": True}
    options["group_size"] = group_size(order.model)
    rounding = AutoRound(str(order.model), tokenizer, scheme=order.kind, device_map="cpu", **options)
    rounding.quantize_and_save(str(order.to), format="auto_round")
    for file in order.to.glob("*/*"):  # what it tunes it puts into a folder of its own there
        file.rename(order.to / file.name)
    sizes = [f.stat().st_size for f in order.to.glob("*.safetensors")]
    return Description(
        f"auto-round {version('auto-round')}, auto-round-lib {version('auto-round-lib')}", *2 * [sum(sizes)]
    )


def load_network(folder: Any) -> Any:
    """As its documentation says."""
    from transformers import AutoModelForCausalLM

    network: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, device_map="cpu")
    return network.eval()


def session(spec: ServingSpec) -> TransformersSession:
    """Eager, as documented."""
    return TransformersSession(spec, load_network(spec.artifact.path / FILES))


if __name__ == "__main__":
    main(make, session)
