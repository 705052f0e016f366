"""An n-gram draft, distilled from the model: what it says after the last tokens, counted over the dialogues.

A reply's next tokens are often certain: the rest of a word, of a phrase that every answer ends with, of a device's
name. A table finds those for the price of a look into a dictionary, where a draft network would cost a pass of its own.
It is learned from the model's own first choices on the dialogues, since they are what it has to foresee.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch

from halfwatt.compress.base import Stage, StepContext
from halfwatt.compress.search_ranges import OneOf
from halfwatt.compress.training.batches import Predictor, in_batches
from halfwatt.core.errors import BadInput
from halfwatt.models.chat_model import ChatModel
from halfwatt.models.ngram_table import count_ngrams

_LONGEST = 512


@dataclass(frozen=True, slots=True)
class Draft:
    """Learn what the model mostly says next; the runtime then lets it check several tokens in one pass.

    order:      tokens of context, at most
    dialogues:  that are looked at, at most
    """

    order: Annotated[int, OneOf(3, 4, 5)] = 4
    dialogues: int = 4096

    name: ClassVar[str] = "draft"
    stage: ClassVar[Stage] = Stage.DECODING
    source: ClassVar[str] = "speculative decoding, arXiv 2211.17192, with an n-gram table as the draft"

    def __str__(self) -> str:
        return f"draft {self.order}"

    def problems(self, _model: ChatModel) -> list[str]:
        """Sizes that cannot be."""
        given = {"order": self.order, "dialogues": self.dialogues}
        return [f"{name} must be above 0, not {value}" for name, value in given.items() if value <= 0]

    def apply(self, model: ChatModel, context: StepContext) -> ChatModel:
        """Ask the model for its first choice at every position of the replies, and count.

        Raises:
            BadInput: no dialogues to ask it about.
        """
        if not context.dialogues:
            raise BadInput("a draft needs dialogues to learn from", hint="pass --dialogues FILE")
        table = count_ngrams(self._said(model, context), self.order)
        said = f"draft: {len(table.follows):,} n-grams of up to {self.order} tokens"
        return replace(model, draft=table, lineage=(*model.lineage, said))

    @torch.no_grad()
    def _said(self, model: ChatModel, context: StepContext) -> Iterator[tuple[list[int], list[tuple[int, int]]]]:
        """Each dialogue's tokens, and what the model says at each position of its replies."""
        predictor = Predictor(model.network).eval()
        batches = in_batches(context.some(self.dialogues), model.tokenizer, min(_LONGEST, model.context))
        for number, batch in enumerate(batches):
            choices = predictor(batch.ids, batch.reply).argmax(-1)
            rows, columns = batch.reply[:, 1:].nonzero(as_tuple=True)
            for row in range(len(batch.ids)):
                mine = rows == row
                yield (
                    batch.ids[row].tolist(),
                    list(zip((columns[mine] + 1).tolist(), choices[mine].tolist(), strict=True)),
                )
            if number % 20 == 19:
                context.progress(f"draft: {(number + 1) / len(batches):.0%} of the dialogues")
