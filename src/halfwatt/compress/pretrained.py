"""A smaller model that was made before, taken in the place of the one given: taught overnight, or on a larger machine.

What its making took is in its folder (``halfwatt.json``), so its training is part of the price all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from halfwatt.compress.base import Stage, StepContext
from halfwatt.core.errors import BadInput
from halfwatt.dialogues.dialogue import Dialogue
from halfwatt.models import model_folder
from halfwatt.models.chat_model import ChatModel, load, outline

_SIZES = ("num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size")


@dataclass(frozen=True, slots=True)
class Adopt:
    """Go on with the model of a folder.

    folder:  a model folder, such as ``halfwatt distil`` writes
    sha256:  of what it holds, so that a recipe is one of this very model; found out where it is not given
    """

    folder: str
    sha256: str = ""

    name: ClassVar[str] = "adopt"
    stage: ClassVar[Stage] = Stage.STRUCTURE
    source: ClassVar[str] = "a model made before"

    def __post_init__(self) -> None:
        """Pin the content.

        Raises:
            ModelError: no model there. BadInput: it is another one than ``sha256`` says.
        """
        folder = model_folder.find(self.folder)
        found = model_folder.fingerprint(folder, model_folder.weight_files(folder), None)  # as `load` names it
        if self.sha256 not in ("", found):
            raise BadInput(f"{self.folder} holds another model than the recipe says", got=found[:12])
        object.__setattr__(self, "sha256", found)

    def problems(self, model: ChatModel) -> list[str]:
        """Another kind of network, or a model on the grid."""
        made = outline(self.folder)
        kinds = [type(m.network).__name__ for m in (model, made)]
        found = [] if kinds[0] == kinds[1] else [f"{self.folder} is a {kinds[1]}, the model a {kinds[0]}"]
        return [*found, "the model is on the integer grid already"] if model.grid else found

    def sizes(self, model: ChatModel, _dialogues: Sequence[Dialogue] = ()) -> dict[str, Any]:
        """Entries of the config as they will be."""
        config = outline(self.folder).network.config
        names = (*_SIZES, model.architecture.ffn_size)
        return {name: getattr(config, name) for name in names if getattr(config, name, None) is not None}

    def apply(self, model: ChatModel, _context: StepContext) -> ChatModel:
        """Load it; how it was made goes with it."""
        made = load(self.folder)
        spent = (*model.spent, *made.spent)
        return replace(model, network=made.network, tokenizer=made.tokenizer, lineage=made.lineage, spent=spent)
