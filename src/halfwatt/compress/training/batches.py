"""Dialogues as training batches: which rows come together, in which order, and what is learned from them.

Rows of about equal length share a batch, so that little is computed on padding. Attention is causal and padding comes
last, so nothing looks at it and no mask is needed. The order hangs on seed and epoch alone: a run that was stopped
goes on with the very batch that it would have taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from halfwatt.compress.training.losses import TopK
from halfwatt.core.errors import BadInput
from halfwatt.dialogues.dialogue import Dialogue
from halfwatt.models.architectures.registry import architecture_of
from halfwatt.models.tokenizer import ChatTokenizer

_STEP = 32  # padded lengths are multiples of it: the shapes that CPU kernels like, and few of them

_POOL = 64  # batches whose rows are sorted by length together


@dataclass(frozen=True, slots=True)
class Row:
    """One dialogue as tokens.

    reply:   True on what the assistant wrote, its end-of-turn tokens included
    taught:  what a teacher says at each learned position, where it was asked beforehand
    """

    name: str
    ids: tuple[int, ...]
    reply: tuple[bool, ...]
    taught: TopK | None = None

    @property
    def positions(self) -> int:
        """How many are learned; nothing predicts the first token."""
        return sum(self.reply[1:])


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step sees.

    ids:    int64 [rows, length], padded at the end
    reply:  bool [rows, length], True on the tokens that are learned; the first column never is
    names:  the dialogues
    taught: the teacher's answers at the learned positions, in the order of ``labels``
    """

    ids: torch.Tensor
    reply: torch.Tensor
    names: tuple[str, ...]
    taught: TopK | None = None

    @property
    def labels(self) -> torch.Tensor:
        """int64 [n]: the learned tokens, row by row; what the positions of `Predictor` predict."""
        return self.ids[:, 1:][self.reply[:, 1:]]

    def to(self, device: torch.device) -> Batch:
        """The same on another device."""
        taught = self.taught and self.taught.to(device)
        return Batch(self.ids.to(device), self.reply.to(device), self.names, taught)


def rows(dialogues: Sequence[Dialogue], tokenizer: ChatTokenizer, longest: int) -> list[Row]:
    """Render and encode; what lies beyond ``longest`` tokens is cut off, a dialogue without a reply in it left out.

    Raises:
        BadInput: nothing is left to learn from.
    """
    made = []
    for dialogue in dialogues:
        tokens = tokenizer.scored(dialogue)
        if any(tokens.reply[1:longest]):
            made.append(Row(dialogue.id, tokens.ids[:longest], tokens.reply[:longest]))
    if not made:
        raise BadInput("there is no reply to learn from", got=f"{len(dialogues)} dialogues", hint="give dialogues")
    return made


def plan(lengths: Sequence[int], batch_tokens: int, seed: int, epoch: int) -> list[list[int]]:
    """Row numbers of every batch of one epoch; each row once. A batch holds ``batch_tokens`` tokens, padding included.

    A row longer than that makes a batch of its own.
    """
    draw = np.random.default_rng((seed, epoch))
    order = [int(i) for i in draw.permutation(len(lengths))]
    pool = max(1, _POOL * batch_tokens // max(1, int(np.mean(lengths))))
    batches: list[list[int]] = []
    for start in range(0, len(order), pool):
        batches += _packed(sorted(order[start : start + pool], key=lambda i: lengths[i]), lengths, batch_tokens)
    return [batches[int(i)] for i in draw.permutation(len(batches))]


def _packed(order: Sequence[int], lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Cut rows sorted by length into batches."""
    made: list[list[int]] = [[]]
    for i in order:
        if made[-1] and (len(made[-1]) + 1) * _padded(lengths[i]) > batch_tokens:
            made.append([])
        made[-1].append(i)
    return made


def collate(found: Sequence[Row], pad_id: int, *, of: Sequence[Row] | None = None) -> Batch:
    """Pad rows to one length.

    Args:
        of: the rows of the whole step, where ``found`` is one process's share: all processes pad alike. An empty share
            becomes one row of padding, so that every process takes part.
    """
    length = _padded(max(len(row.ids) for row in (of or found)))
    ids = torch.full((max(1, len(found)), length), pad_id)
    reply = torch.zeros(ids.shape, dtype=torch.bool)
    for k, row in enumerate(found):
        ids[k, : len(row.ids)] = torch.tensor(row.ids)
        reply[k, : len(row.ids)] = torch.tensor(row.reply)
    reply[:, 0] = False  # nothing predicts the first token
    taught = [row.taught for row in found if row.taught is not None]
    return Batch(ids, reply, tuple(row.name for row in found), TopK.joined(taught) if taught else None)


def in_batches(dialogues: Sequence[Dialogue], tokenizer: ChatTokenizer, longest: int, at_once: int = 16) -> list[Batch]:
    """All dialogues, sorted by length, ``at_once`` to a batch: for reading activations, where the order is no matter.

    Raises:
        BadInput: no dialogue has a reply within ``longest`` tokens.
    """
    some = sorted(rows(dialogues, tokenizer, longest), key=lambda row: len(row.ids))
    return [collate(some[k : k + at_once], tokenizer.pad_id) for k in range(0, len(some), at_once)]


def _padded(length: int) -> int:
    return -(-length // _STEP) * _STEP


class Predictor(nn.Module):
    """A network as a function of a batch: logits [n, vocabulary] of the positions that predict a learned token.

    The head is applied to those positions alone: at these sizes it is a third of the work.
    """

    def __init__(self, network: PreTrainedModel) -> None:
        super().__init__()
        self.network = network

    def forward(self, ids: torch.Tensor, reply: torch.Tensor) -> torch.Tensor:
        """ids, reply: as in `Batch`."""
        states = self.network.base_model(input_ids=ids, use_cache=False).last_hidden_state
        return _logits(self.network, states, reply)


class Watched(nn.Module):
    """A `Predictor` that also tells what every block puts out at its positions, [n, width] each, before any norm."""

    def __init__(self, network: PreTrainedModel) -> None:
        super().__init__()
        self.network = network

    def forward(self, ids: torch.Tensor, reply: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """ids, reply: as in `Batch`."""
        last: list[torch.Tensor] = []  # the last block's: transformers tells it with the final norm applied
        handle = (
            architecture_of(self.network)
            .final_norm(self.network)
            .register_forward_pre_hook(lambda _, given: last.append(given[0]))
        )
        try:
            found = self.network.base_model(input_ids=ids, use_cache=False, output_hidden_states=True)
        finally:
            handle.remove()
        states = [s[:, :-1][reply[:, 1:]] for s in (*found.hidden_states[1:-1], last[0])]
        return _logits(self.network, found.last_hidden_state, reply), states


def _logits(network: PreTrainedModel, states: torch.Tensor, reply: torch.Tensor) -> torch.Tensor:
    """Of the outputs of the final norm, [rows, length, width], at the positions that predict a learned token."""
    head = network.get_output_embeddings()  # type: ignore[no-untyped-call]
    predicting = states[:, :-1][reply[:, 1:]]
    logits: torch.Tensor = head(architecture_of(network).head_inputs(network.config, predicting))
    return logits
