"""An n-gram draft, distilled from the model: what it says after the last tokens, counted over the dialogues.

A reply's next tokens are often certain: the rest of a word, of a phrase that every answer ends with, of a device's
name. A table finds those for the price of a look into a dictionary, where a draft network would cost a pass of its own.
It is learned from the model's own first choices on the dialogues, since they are what it has to foresee.
Source: speculative decoding, arXiv 2211.17192, with the table as the draft.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch

from halfwatt.compress.base import Stage, Step, StepContext
from halfwatt.compress.search_ranges import OneOf
from halfwatt.compress.training.batches import Predictor, calibration
from halfwatt.models.chat_model import ChatModel
from halfwatt.models.ngram_table import count_ngrams

_Counted = tuple[list[int], list[tuple[int, int]]]


@dataclass(frozen=True, slots=True)
class Draft(Step):
    """Learn what the model mostly says next; the runtime then lets it check several tokens in one pass.

    order:      tokens of context, at most
    dialogues:  that are looked at, at most
    """

    order: Annotated[int, OneOf(3, 4, 5)] = 4
    dialogues: int = 4096

    name: ClassVar[str] = "draft"
    stage: ClassVar[Stage] = Stage.DECODING

    def __str__(self) -> str:
        return f"draft {self.order}"

    def problems(self, model: ChatModel) -> list[str]:
        sizes = {"order": self.order, "dialogues": self.dialogues}
        problems = [f"{name} must be above 0, not {value}" for name, value in sizes.items() if value <= 0]
        if set(model.architecture.kinds(model.network.config)) & set(model.architecture.stateful):
            problems.append(f"{model.architecture.class_name} keeps a state that takes no wrong guess back")
        return problems

    def apply(self, model: ChatModel, context: StepContext) -> ChatModel:
        """Ask the model for its first choice at every position of the replies, and count.

        Raises:
            BadInput: no dialogues to ask it about.
        """
        table = count_ngrams(self._first_choices(model, context), self.order)
        line = f"draft: {len(table.follows):,} n-grams of up to {self.order} tokens"
        return replace(model, draft=table, lineage=(*model.lineage, line))

    @torch.no_grad()
    def _first_choices(self, model: ChatModel, context: StepContext) -> Iterator[_Counted]:
        """Each dialogue's tokens, and (position, token) of what the model would say at each position of its replies."""
        predictor = Predictor(model.network).eval()
        batches = calibration(model, context, "a draft needs dialogues to learn from", self.dialogues)
        for number, batch in enumerate(batches):
            tokens = predictor(batch.ids, batch.reply).argmax(-1)
            rows, columns = batch.reply[:, 1:].nonzero(as_tuple=True)
            for row, ids in enumerate(batch.ids.tolist()):
                own = rows == row
                yield ids, list(zip((columns[own] + 1).tolist(), tokens[own].tolist(), strict=True))
            if number % 20 == 19:
                context.settings.progress(f"draft: {(number + 1) / len(batches):.0%} of the dialogues")
