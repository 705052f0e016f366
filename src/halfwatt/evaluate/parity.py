"""Gate G0: the exported model, in its runtime, against the model in memory that was exported.

It separates "the export is wrong" from "compression lost something": both sides have the same weights, the integers of
the grid included. The reference is float32 mathematics. What remains is the runtime's own rounding: llama.cpp computes
with fp16 tables and, for integer weights, with activations rounded to int8. That is 2e-4 nats on the demo and 3e-3 on
SmolLM2-135M, as much as a fault might be: where it is much, the network in memory rounds them too, which says how much
to expect (within 15 % of what llama.cpp does). It cannot be the reference itself: over a few layers the least
difference decides other roundings, and two networks that round end as far from each other as from one that does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from halfwatt.core.errors import BadInput, ModelError
from halfwatt.core.statistics import Floats
from halfwatt.dialogues.dialogue import Dialogue
from halfwatt.evaluate.likelihood import kl_rows, predicting
from halfwatt.formats.artifact import Artifact, Parity
from halfwatt.formats.gguf_tokenizer import EOS_KEY
from halfwatt.models.chat_model import ChatModel
from halfwatt.models.exact_network import exact_network
from halfwatt.models.tokenizer import ChatTokenizer, ScoredTokens
from halfwatt.models.weights import device_of
from halfwatt.runtimes.base import Session, common_prefix

NOTHING_TO_COMPARE = 1e9  # KL in nats where no logits could be compared; JSON has no infinity
_ENOUGH = 512  # tokens of replies whose logits are compared
_MUCH_KL, _MUCH_TOP1 = 5e-4, 0.995  # from which on it is asked what rounding explains
NEAR_TIE = 0.05  # nats; where the model prefers one token by less, rounding may prefer the other: no export bug


@runtime_checkable
class SelfContained(Protocol):
    """A session whose file carries a template and stop tokens of its own, which other programs will use."""

    def stored(self, key: str) -> str | None: ...


def check(model: ChatModel, artifact: Artifact, session: Session, dialogues: Sequence[Dialogue]) -> Parity:
    """Compare on real dialogues; those longer than the model's context are cut after a whole reply.

    Ids that our sessions hand over are compared in all of them, logits in the first that hold `_ENOUGH` tokens of
    replies together.
    ``problems`` says in words what is not equal; whether the KL is small enough is for the gate to say.

    Raises:
        BadInput: no dialogue, or none with a reply.
    """
    longest = model.architecture.context_length(model.network.config)
    fitting = [cut for d in dialogues if (cut := _cut(d, model.tokenizer, longest)) is not None]
    if not fitting:
        raise BadInput("parity needs dialogues with a reply that fits the context", got=f"{len(dialogues)} dialogues")
    stored = ChatTokenizer.load(artifact.path)
    splits = first_difference("the artifact's tokenizer", stored.encode, model.tokenizer, fitting)
    templates, stops = _compare_texts(model.tokenizer, stored, session)
    compared, tokens = _enough(model.tokenizer, fitting)
    kl, same, not_finite = _compare_logits(model, session, stored, compared)
    plain = Parity(
        dialogues=len(compared),
        tokens=tokens,
        token_ids_equal=splits is None,
        template_equal=not templates,
        eos_equal=not stops,
        finite=not not_finite,
        kl_mean=float(kl.mean()) if len(kl) else NOTHING_TO_COMPARE,
        kl_max=float(kl.max()) if len(kl) else NOTHING_TO_COMPARE,
        top1=int(same.sum()) / tokens,  # what could not be compared counts as wrong
        problems=(*filter(None, [splits]), *templates, *stops, *(f"not finite: {name}" for name in not_finite)),
    )
    much = plain.kl_mean > _MUCH_KL or plain.top1 < _MUCH_TOP1
    if not (much and len(kl) and model.grid and isinstance(session, SelfContained)):
        return plain
    rounding_kl, rounding_same = rounding_of_activations(model, compared)
    return replace(plain, kl_of_rounding=float(rounding_kl.mean()), top1_of_rounding=float(rounding_same.mean()))


def rounding_of_activations(model: ChatModel, dialogues: Sequence[Dialogue]) -> tuple[Floats, NDArray[np.bool_]]:
    """KL and `same_choice` of a model on the grid, between float32 and activations rounded as llama.cpp rounds them.

    The logits in float32 are computed again: kept, those of 262,144 tokens were half a gigabyte for all who never ask.
    """
    exact, rounded = exact_network(model), exact_network(model, rounded=True)
    kl, same = list[Floats](), list[NDArray[np.bool_]]()
    for dialogue in dialogues:
        scored = model.tokenizer.scored(dialogue)
        reference, other = (_logits(network, scored) for network in (exact, rounded))
        kl.append(kl_rows(reference, other))
        same.append(same_choice(reference, other))
    return np.concatenate(kl), np.concatenate(same)


def as_it_is(chat: ChatTokenizer, dialogues: Sequence[Dialogue]) -> Parity:
    """Of a file that is served as it was given: nothing was exported."""
    tokens = sum(sum(chat.scored(dialogue).reply[1:]) for dialogue in dialogues)
    return Parity(len(dialogues), tokens, True, True, True, True, 0.0, 0.0, 1.0)


def _compare_texts(ours: ChatTokenizer, stored: ChatTokenizer, session: Session) -> tuple[list[str], list[str]]:
    """What is wrong, in words, with template and stop tokens of the artifact and of the runtime's file."""
    templates, stops = [stored.template], [str(list(stored.eos_ids))]
    if isinstance(session, SelfContained):
        templates.append(session.stored("tokenizer.chat_template") or "")
        stops.append(session.stored(EOS_KEY) or "")
    own_stops = list(ours.eos_ids)
    same_template, same_stops = set(templates) == {ours.template}, set(stops) == {str(own_stops)}
    return (
        [] if same_template else ["the chat template is not the model's, byte for byte"],
        [] if same_stops else [f"stop tokens differ: {', '.join(stops)}, the model's are {own_stops}"],
    )


def first_difference(
    label: str, encode: Callable[[str], list[int]], ours: ChatTokenizer, dialogues: Sequence[Dialogue]
) -> str | None:
    """What is different first, in words; None when all ids of all dialogues, as prompts and whole, are the same."""
    for dialogue in dialogues:
        for text in (ours.render(dialogue, prompt=False), ours.render(dialogue.before(-1), prompt=True)):
            expected, ids = ours.encode(text), encode(text)
            if ids != expected:
                at = common_prefix(expected, ids)
                return f"{label} splits dialogue {dialogue.id} differently from token {at} on"
    return None


def _cut(dialogue: Dialogue, tokenizer: ChatTokenizer, longest: int) -> Dialogue | None:
    """The dialogue up to the last reply with which it still fits; None if not even the first does."""
    cuts = (dialogue.before(turn + 1) for turn in reversed(dialogue.assistant_turns))
    return next((cut for cut in cuts if len(tokenizer.encode(tokenizer.render(cut, prompt=False))) <= longest), None)


def _enough(tokenizer: ChatTokenizer, dialogues: Sequence[Dialogue]) -> tuple[list[Dialogue], int]:
    """The first of them whose replies have `_ENOUGH` tokens together, or all; and how many these have."""
    some, tokens = list[Dialogue](), 0
    for dialogue in dialogues:
        if tokens >= _ENOUGH:
            break
        some.append(dialogue)
        tokens += sum(tokenizer.scored(dialogue).reply[1:])
    return some, tokens


def _compare_logits(
    model: ChatModel, session: Session, stored: ChatTokenizer, dialogues: Sequence[Dialogue]
) -> tuple[Floats, NDArray[np.bool_], list[str]]:
    """KL and `same_choice` of the assistant's tokens, and the names of what is not finite.

    Both without the dialogues that the artifact tokenises otherwise or answers with logits that are not finite.
    """
    network = exact_network(model)
    numbers = dict(model.network.named_parameters()) | {name: grid.scale for name, grid in model.grid.items()}
    not_finite = [name for name, values in numbers.items() if not torch.isfinite(values).all()]
    kl, same = [np.empty(0)], [np.empty(0, bool)]
    for dialogue in dialogues:
        scored = model.tokenizer.scored(dialogue)
        if not _same_ids(stored, dialogue, scored.ids):
            continue
        reference = _logits(network, scored)
        served = session.logits(dialogue, predicting(scored).tolist())
        if np.isfinite(served).all() and np.isfinite(reference).all():
            kl.append(kl_rows(reference, served))
            same.append(same_choice(reference, served))
        else:
            not_finite.append(f"logits of dialogue {dialogue.id}")
    return np.concatenate(kl), np.concatenate(same), not_finite


@torch.inference_mode()
def _logits(network: PreTrainedModel, scored: ScoredTokens) -> NDArray[np.float32]:
    """[tokens of replies, vocabulary]"""
    device = device_of(network)
    wanted = torch.tensor(predicting(scored), device=device)  # the head is a third of the work
    ids = torch.tensor([scored.ids], device=device)
    logits: NDArray[np.float32] = (
        network(input_ids=ids, use_cache=False, logits_to_keep=wanted).logits[0].float().numpy(force=True)
    )
    return logits


def same_choice(reference: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Of each row of logits: does ``other`` prefer a token that the reference has within `NEAR_TIE` of its best?"""
    choice = np.take_along_axis(reference, other.argmax(-1)[:, None], axis=-1)[:, 0]
    return np.asarray(reference.max(-1) - choice <= NEAR_TIE)


def _same_ids(stored: ChatTokenizer, dialogue: Dialogue, ids: Sequence[int]) -> bool:
    """Whether the session, which has the artifact's tokenizer, sees these tokens of the dialogue."""
    try:
        return stored.scored(dialogue).ids == tuple(ids)
    except ModelError:
        return False


def parity_of_both(own: Parity, other: Parity) -> Parity:
    """The record of a cascade by those of its two parts: each has to be equal to its model. Pure."""
    rounding = [p.kl_of_rounding for p in (own, other) if p.kl_of_rounding is not None]
    rounded_top1 = [p.top1_of_rounding for p in (own, other) if p.top1_of_rounding is not None]
    return Parity(
        dialogues=min(own.dialogues, other.dialogues),
        tokens=min(own.tokens, other.tokens),
        token_ids_equal=own.token_ids_equal and other.token_ids_equal,
        template_equal=own.template_equal and other.template_equal,
        eos_equal=own.eos_equal and other.eos_equal,
        finite=own.finite and other.finite,
        kl_mean=max(own.kl_mean, other.kl_mean),
        kl_max=max(own.kl_max, other.kl_max),
        top1=min(own.top1, other.top1),
        problems=(*own.problems, *other.problems),
        remarks=tuple(dict.fromkeys((*own.remarks, *other.remarks))),
        kl_of_rounding=max(rounding, default=None),
        top1_of_rounding=min(rounded_top1, default=None),
    )
