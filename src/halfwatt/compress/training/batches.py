"""Dialogues as training batches: which rows come together, in which order, and what is learned from them.

Rows of about equal length share a batch, so that little is computed on padding. Attention is causal and padding comes
last, so nothing looks at it: no mask is needed, and any token pads. The order hangs on seed and epoch alone: a run that
was stopped goes on with the very batch that it would have taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from halfwatt.compress.base import StepContext
from halfwatt.compress.training.losses import TopK
from halfwatt.core.errors import BadInput
from halfwatt.core.types import Progress
from halfwatt.dialogues.dialogue import Dialogue
from halfwatt.models.architectures.registry import architecture_of
from halfwatt.models.chat_model import ChatModel
from halfwatt.models.tokenizer import ChatTokenizer, without_odd

_STEP = 32  # padded lengths are multiples of it: the shapes that CPU kernels like, and few of them
_POOL = 64  # batches whose rows are sorted by length together


@dataclass(frozen=True, slots=True)
class Row:
    """One dialogue as tokens.

    reply:    True on what the assistant wrote, its end-of-turn tokens included
    teacher:  what a teacher predicts at each learned position, where it was asked beforehand
    """

    name: str
    ids: tuple[int, ...]
    reply: tuple[bool, ...]
    teacher: TopK | None = None

    @property
    def positions(self) -> int:
        """How many are learned; nothing predicts the first token."""
        return sum(self.reply[1:])

    def with_labels(self, k: int) -> Row:
        """The row with what was written in the place of a teacher's k best tokens."""
        labels = [token for token, learned in zip(self.ids[1:], self.reply[1:], strict=True) if learned]
        return replace(self, teacher=TopK.certain(torch.tensor(labels), k))


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step sees.

    ids:      int64 [rows, length], padded at the end
    reply:    bool [rows, length], True on the tokens that are learned; the first column never is
    names:    the dialogues
    teacher:  its predictions at the learned positions, in the order of ``labels``
    """

    ids: Tensor
    reply: Tensor
    names: tuple[str, ...]
    teacher: TopK | None = None

    @property
    def labels(self) -> Tensor:
        """int64 [n]: the learned tokens, row by row; what the positions of `Predictor` predict."""
        return self.ids[:, 1:][self.reply[:, 1:]]

    @property
    def predicting(self) -> Tensor:
        """Bool [rows, length]: the positions from which a learned token is predicted."""
        return self.reply.roll(-1, 1)

    def to(self, device: torch.device) -> Batch:
        return Batch(self.ids.to(device), self.reply.to(device), self.names, self.teacher and self.teacher.to(device))


def encode_rows(
    dialogues: Sequence[Dialogue], tokenizer: ChatTokenizer, longest: int, progress: Progress = lambda _: None
) -> list[Row]:
    """Render and encode; what lies beyond ``longest`` tokens is cut off, a dialogue without a reply in it left out.
    ``progress`` is told of odd ones whose replies cannot be told apart.

    Raises:
        BadInput: nothing is left to learn from. ModelError: no replies can be told apart, but for an odd one.
    """
    encoded, faults = without_odd(dialogues, tokenizer.scored)
    rows = [Row(d.id, t.ids[:longest], t.reply[:longest]) for d, t in encoded if any(t.reply[1:longest])]
    if faults:
        progress(f"{len(faults)} of {len(dialogues)} dialogues are not learned from: {faults[0]}")
    if not rows:
        raise BadInput("there is no reply to learn from", got=f"{len(dialogues)} dialogues", hint="give dialogues")
    return rows


def plan(lengths: Sequence[int], batch_tokens: int, seed: int, epoch: int) -> list[list[int]]:
    """Row numbers of every batch of one epoch; each row once. A batch holds ``batch_tokens`` tokens, padding included.

    A row longer than that makes a batch of its own.
    """
    draw = np.random.default_rng((seed, epoch))
    order: list[int] = draw.permutation(len(lengths)).tolist()
    pool = max(1, _POOL * batch_tokens // max(1, int(np.mean(lengths))))
    batches: list[list[int]] = []
    for start in range(0, len(order), pool):
        batches.append([])
        for i in sorted(order[start : start + pool], key=lambda i: lengths[i]):
            if batches[-1] and (len(batches[-1]) + 1) * _padded(lengths[i]) > batch_tokens:
                batches.append([])
            batches[-1].append(i)
    return [batches[i] for i in draw.permutation(len(batches))]


def _padded(length: int) -> int:
    return -(-length // _STEP) * _STEP


def collate(rows: Sequence[Row], *, of: Sequence[Row] | None = None) -> Batch:
    """Pad rows to one length.

    Args:
        of: the rows of the whole step, where ``rows`` is one process's share: all processes pad alike. An empty share
            becomes one row of padding, so that every process takes part.
    """
    length = _padded(max(len(row.ids) for row in (of or rows)))
    ids = torch.zeros(max(1, len(rows)), length, dtype=torch.int64)
    reply = torch.zeros(ids.shape, dtype=torch.bool)
    for k, row in enumerate(rows):
        ids[k, : len(row.ids)] = torch.tensor(row.ids)
        reply[k, : len(row.ids)] = torch.tensor(row.reply)
    reply[:, 0] = False  # nothing predicts the first token
    teacher = [row.teacher for row in rows if row.teacher is not None]
    return Batch(ids, reply, tuple(row.name for row in rows), TopK.joined(teacher) if teacher else None)


def in_batches(dialogues: Sequence[Dialogue], tokenizer: ChatTokenizer, longest: int) -> list[Batch]:
    """All dialogues, sorted by length, 16 to a batch: for reading activations, where the order is no matter.

    Raises:
        BadInput: no dialogue has a reply within ``longest`` tokens.
    """
    rows = sorted(encode_rows(dialogues, tokenizer, longest), key=lambda row: len(row.ids))
    return [collate(rows[k : k + 16]) for k in range(0, len(rows), 16)]


def calibration(model: ChatModel, context: StepContext, purpose: str, count: int, longest: int = 512) -> list[Batch]:
    """At most ``count`` of the context's dialogues, each cut to ``longest`` tokens: to read activations on.

    Raises:
        BadInput: there are none; ``purpose`` says why it takes some.
    """
    if not context.dialogues:
        raise BadInput(purpose, hint="pass --dialogues FILE")
    return in_batches(context.some(count), model.tokenizer, min(longest, model.context))


class Predictor(nn.Module):
    """A network as a function of a batch: logits [n, vocabulary] of the positions that predict a learned token.

    The head is applied to those positions alone: at these sizes it is a third of the work.
    """

    def __init__(self, network: PreTrainedModel) -> None:
        super().__init__()
        self.network = network

    def forward(self, ids: Tensor, reply: Tensor) -> Tensor:
        """ids, reply: as in `Batch`."""
        return self._logits(self.network.base_model(input_ids=ids, use_cache=False).last_hidden_state, reply)

    def _logits(self, states: Tensor, reply: Tensor) -> Tensor:
        """states: the outputs of the final norm, [rows, length, width]."""
        head = self.network.get_output_embeddings()  # type: ignore[no-untyped-call]
        inputs = architecture_of(self.network).head_inputs(self.network.config, states[:, :-1][reply[:, 1:]])
        return cast(Tensor, head(inputs))


class StatePredictor(Predictor):
    """A `Predictor` that also gives what every block puts out at its positions, [n, width] each, before any norm."""

    def forward(self, ids: Tensor, reply: Tensor) -> tuple[Tensor, list[Tensor]]:  # type: ignore[override]
        """ids, reply: as in `Batch`."""
        last: list[Tensor] = []  # the last block's: transformers gives it with the final norm applied
        norm = architecture_of(self.network).final_norm(self.network)
        with norm.register_forward_pre_hook(lambda _, given: last.append(given[0])):
            outputs = self.network.base_model(input_ids=ids, use_cache=False, output_hidden_states=True)
        states = [s[:, :-1][reply[:, 1:]] for s in (*outputs.hidden_states[1:-1], last[0])]
        return self._logits(outputs.last_hidden_state, reply), states
