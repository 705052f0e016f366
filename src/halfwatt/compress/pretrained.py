"""A smaller model from elsewhere, taken in the place of the one given: trained overnight, or on a larger machine.

What its making took is in its folder (``halfwatt.json``), so its training is part of the price all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from halfwatt.compress.base import Stage, Step, StepContext
from halfwatt.core.errors import BadInput
from halfwatt.dialogues.dialogue import Dialogue
from halfwatt.models import model_folder
from halfwatt.models.chat_model import ChatModel, load, outline

_SIZES = ("num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size")


@dataclass(frozen=True, slots=True)
class Adopt(Step):
    """Go on with the model of a folder.

    folder:  a model folder, such as ``halfwatt distil`` writes
    sha256:  of what it holds, so that a recipe is one of this very model; computed where it is not given
    """

    folder: str
    sha256: str = ""

    name: ClassVar[str] = "adopt"
    opens: ClassVar[bool] = False
    stage: ClassVar[Stage] = Stage.STRUCTURE

    def __post_init__(self) -> None:
        """Pin the content.

        Raises:
            ModelError: no model there. BadInput: it is another one than ``sha256`` says.
        """
        folder = model_folder.find(self.folder)
        sha256 = model_folder.fingerprint(folder, model_folder.weight_files(folder), None)  # as `load` names it
        if self.sha256 not in ("", sha256):
            raise BadInput(f"{self.folder} holds another model than the recipe says", got=sha256[:12])
        object.__setattr__(self, "sha256", sha256)

    def problems(self, model: ChatModel) -> list[str]:
        given, own = (type(m.network).__name__ for m in (model, outline(self.folder)))
        problems = [] if given == own else [f"{self.folder} is a {own}, the model a {given}"]
        return [*problems, "the model is on the integer grid already"] if model.grid else problems

    def sizes(self, model: ChatModel, _dialogues: Sequence[Dialogue] = ()) -> dict[str, Any]:
        config = outline(self.folder).network.config
        names = (*_SIZES, model.architecture.ffn_size)
        return {name: getattr(config, name) for name in names if getattr(config, name, None) is not None}

    def apply(self, model: ChatModel, _context: StepContext) -> ChatModel:
        """Load it; its lineage and its price come with it."""
        other = load(self.folder)
        spent = (*model.spent, *other.spent)
        return replace(
            model, network=other.network, tokenizer=other.tokenizer, lineage=other.lineage, spent=spent, run_only=""
        )
