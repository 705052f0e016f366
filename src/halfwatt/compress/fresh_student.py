"""A fresh student: a small Llama with random weights that reads the model's tokens, to be taught.

Pruning keeps what the original knows; a fresh network is what pruning is compared with. It reaches sizes that no cut
of the original has, and its family does not hang on the original's: every runtime computes a Llama well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, ClassVar

from halfwatt.compress.base import WIDTH, Stage, Step, StepContext
from halfwatt.dialogues.dialogue import Dialogue

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from halfwatt.models.chat_model import ChatModel

HEAD = 64  # values of an attention head


@dataclass(frozen=True, slots=True)
class Student(Step):
    """Begin anew with a small Llama on the model's own tokens. A query head has 64 values: width / 64 of them."""

    layers: int = 4
    """Blocks."""
    width: int = 256
    """Residual channels (hidden size), a multiple of 64."""
    ffn: int = 768
    """FFN neurons, a multiple of 64."""
    kv_heads: int = 2
    """A divisor of the query heads' number."""

    name: ClassVar[str] = "student"
    opens: ClassVar[bool] = False
    stage: ClassVar[Stage] = Stage.STRUCTURE

    def __str__(self) -> str:
        return f"{self.layers} block{'s' if self.layers > 1 else ''} of {self.width}"

    def problems(self, model: ChatModel) -> list[str]:
        sizes: dict[str, int] = {f.name: getattr(self, f.name) for f in fields(self)}
        problems = [f"{name} must be above 0, not {size}" for name, size in sizes.items() if size <= 0]
        problems += [f"{n} must be a multiple of {WIDTH}, not {sizes[n]}" for n in ("width", "ffn") if sizes[n] % WIDTH]
        if not problems and (heads := self.width // HEAD) % self.kv_heads:
            problems.append(f"{heads} query heads cannot share {self.kv_heads} KV heads")
        return [*problems, "the model is on the integer grid already"] if model.grid else problems

    def resized(self, model: ChatModel, _dialogues: Sequence[Dialogue] = ()) -> PreTrainedModel:
        """The network, float32, its weights drawn by torch's generator as transformers draws them."""
        from halfwatt.models.architectures.llama import fresh

        sizes = {
            "hidden_size": self.width,
            "intermediate_size": self.ffn,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.width // HEAD,
            "num_key_value_heads": self.kv_heads,
            "head_dim": HEAD,
        }
        network = fresh(model.network.config.vocab_size, model.context, sizes)
        network.config.eos_token_id = list(model.tokenizer.eos_ids)
        network.generation_config = model.network.generation_config
        return network

    def apply(self, model: ChatModel, context: StepContext) -> ChatModel:
        """Draw the weights by the context's seed."""
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.settings.seed)
            network = self.resized(model)
        summary = f"a fresh student of {sum(p.numel() for p in network.parameters()) / 1e6:.2f}M parameters"
        return replace(model, network=network, lineage=(*model.lineage, summary), run_only="")
