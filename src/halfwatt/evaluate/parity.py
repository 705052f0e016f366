"""Gate G0: the exported model, in its runtime, against the model in memory that was exported.

It separates "the export is wrong" from "compression lost something": both sides have the same weights, the integers of
the grid included. The reference is float32 mathematics. What remains is the runtime's own rounding: llama.cpp computes
with fp16 tables and, for integer weights, with activations rounded to int8.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import log_softmax
from transformers import PreTrainedModel

from halfwatt.core.errors import BadInput, ModelError
from halfwatt.dialogues.dialogue import Dialogue
from halfwatt.formats.artifact import Artifact, Parity
from halfwatt.formats.gguf import context_length
from halfwatt.formats.gguf_tokenizer import EOS_KEY
from halfwatt.models.chat_model import ChatModel
from halfwatt.models.tokenizer import ChatTokenizer
from halfwatt.models.weights import fill
from halfwatt.runtimes.base import Session

NOTHING_TO_COMPARE = 1e9
"""KL in nats where no logits could be compared. JSON has no infinity."""

NEAR_TIE = 0.05
"""Nats. Where the model itself prefers one token by less, rounding may prefer the other: that is no export bug."""


@runtime_checkable
class OwnTokenizer(Protocol):
    """A session whose file carries a tokenizer that other programs will use."""

    def tokenize(self, text: str) -> list[int]: ...

    def stored(self, key: str) -> str | None: ...


def check(model: ChatModel, artifact: Artifact, session: Session, dialogues: Sequence[Dialogue]) -> Parity:
    """Compare on real dialogues; those longer than the model's context are cut after a whole reply.

    ``problems`` says in words what is not equal; whether the KL is small enough is for the gate to say.

    Raises:
        BadInput: no dialogue, or none with a reply.
    """
    ours, stored = model.tokenizer, ChatTokenizer.load(artifact.path)
    longest = context_length(model.network.config)
    fitting = [cut for d in dialogues if (cut := _cut(d, ours, longest)) is not None]
    if not fitting:
        raise BadInput("parity needs dialogues with a reply that fits the context", got=f"{len(dialogues)} dialogues")
    templates = [stored.template]
    stops = [str(list(stored.eos_ids))]
    tokenizers: dict[str, Callable[[str], list[int]]] = {"the artifact's tokenizer": stored.encode}
    if isinstance(session, OwnTokenizer):
        templates.append(session.stored("tokenizer.chat_template") or "")
        stops.append(session.stored(EOS_KEY) or "")
        tokenizers["the runtime's own tokenizer (used by other programs, never by us)"] = session.tokenize
    differences = [
        text for label, encode in tokenizers.items() if (text := _token_difference(label, encode, ours, fitting))
    ]
    template_equal = all(t == ours.template for t in templates)
    eos_equal = all(s == str(list(ours.eos_ids)) for s in stops)
    tally = _compare_logits(model, session, stored, fitting)
    problems = list(differences)
    problems += [] if template_equal else ["the chat template is not the model's, byte for byte"]
    problems += [] if eos_equal else [f"stop tokens differ: {', '.join(stops)}, the model's are {list(ours.eos_ids)}"]
    problems += [f"not finite: {name}" for name in tally.not_finite]
    return Parity(
        dialogues=len(fitting),
        tokens=tally.tokens,
        token_ids_equal=not differences,
        template_equal=template_equal,
        eos_equal=eos_equal,
        finite=not tally.not_finite,
        kl_mean=tally.kl_sum / tally.compared if tally.compared else NOTHING_TO_COMPARE,
        kl_max=tally.kl_max if tally.compared else NOTHING_TO_COMPARE,
        top1=tally.same / tally.tokens,
        problems=tuple(problems),
    )


def kl_rows(reference: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float64]:
    """KL(reference || other) in nats of each row of logits, in float64."""
    p, q = (log_softmax(torch.from_numpy(rows).double(), dim=-1) for rows in (reference, other))
    return (p.exp() * (p - q)).sum(-1).numpy()


def same_choice(reference: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Of each row of logits: does ``other`` prefer a token that the reference has within `NEAR_TIE` of its best?"""
    chosen = np.take_along_axis(reference, other.argmax(-1)[:, None], axis=-1)[:, 0]
    return np.asarray(reference.max(-1) - chosen <= NEAR_TIE)


@dataclass
class _Tally:
    """Sums over the assistant's tokens.

    compared:  without the dialogues that the artifact tokenises otherwise or answers with logits that are not finite;
               their tokens count as wrong
    """

    tokens: int = 0
    compared: int = 0
    kl_sum: float = 0.0
    kl_max: float = 0.0
    same: int = 0
    not_finite: list[str] = field(default_factory=list)


def _compare_logits(model: ChatModel, session: Session, stored: ChatTokenizer, dialogues: Sequence[Dialogue]) -> _Tally:
    network = _float32(model)
    bad = [name for name, p in network.named_parameters() if not torch.isfinite(p).all()]
    tally = _Tally(not_finite=bad)
    for dialogue in dialogues:
        scored = model.tokenizer.scored(dialogue)
        rows = np.flatnonzero(scored.reply[1:])  # row i predicts token i + 1
        tally.tokens += len(rows)
        if not _same_ids(stored, dialogue, scored.ids):
            continue
        with torch.inference_mode():
            ids = torch.tensor([scored.ids], device=network.device)
            wanted = network(input_ids=ids, use_cache=False).logits[0, rows].float().numpy(force=True)
        got = session.logits(dialogue)[rows]
        if not (np.isfinite(got).all() and np.isfinite(wanted).all()):
            tally.not_finite.append(f"logits of dialogue {dialogue.id}")
            continue
        kl = kl_rows(wanted, got)
        tally.compared += len(rows)
        tally.kl_sum += float(kl.sum())
        tally.kl_max = max(tally.kl_max, float(kl.max()))
        tally.same += int(same_choice(wanted, got).sum())
    return tally


def _same_ids(stored: ChatTokenizer, dialogue: Dialogue, ids: Sequence[int]) -> bool:
    """Whether the session, which has the artifact's tokenizer, sees the same tokens of this dialogue."""
    try:
        return stored.scored(dialogue).ids == tuple(ids)
    except ModelError:
        return False


def _float32(model: ChatModel) -> PreTrainedModel:
    """The network with float32 weights, those on the grid exactly ``s * q``. The model itself if it is that already."""
    if all(p.dtype == torch.float32 for p in model.network.parameters()) and not model.grid:
        return model.network
    network: PreTrainedModel = copy.deepcopy(model.network).float()  # type: ignore[no-untyped-call]
    fill(network, model.grid)
    return network


def _cut(dialogue: Dialogue, tokenizer: ChatTokenizer, longest: int) -> Dialogue | None:
    """The dialogue up to the last reply with which it still fits; None if not even the first does."""
    for turn in reversed(dialogue.assistant_turns):
        cut = dialogue.before(turn + 1)
        if len(tokenizer.encode(tokenizer.render(cut, prompt=False))) <= longest:
            return cut
    return None


def _token_difference(
    label: str, encode: Callable[[str], list[int]], ours: ChatTokenizer, dialogues: Sequence[Dialogue]
) -> str | None:
    """What is different first, in words; None when all ids of all dialogues, as prompts and whole, are the same."""
    for dialogue in dialogues:
        for text in (ours.render(dialogue, prompt=False), ours.render(dialogue.before(-1), prompt=True)):
            wanted, got = ours.encode(text), encode(text)
            if wanted == got:
                continue
            at = next(
                (i for i, (a, b) in enumerate(zip(wanted, got, strict=False)) if a != b), min(len(wanted), len(got))
            )
            return f"{label} splits dialogue {dialogue.id} differently from token {at} on"
    return None
