"""What the gate reads: reference and candidate over the same dialogues, in the runtime that serves them."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from halfwatt.core.errors import ModelError
from halfwatt.core.types import Progress
from halfwatt.dialogues.dialogue import Dialogue
from halfwatt.evaluate import parity
from halfwatt.evaluate.likelihood import teacher_score, trimmed_score
from halfwatt.evaluate.records import QualityInputs, ScoredReply, TeacherScore
from halfwatt.evaluate.replies import generate_replies
from halfwatt.evaluate.requests import Workload
from halfwatt.formats.artifact import Artifact, Parity
from halfwatt.models.chat_model import ChatModel
from halfwatt.models.tokenizer import ChatTokenizer
from halfwatt.models.vocabulary_map import VocabularyMap
from halfwatt.runtimes.serving_process import ServingProcess, ServingSpec, open_session


def prove(model: ChatModel, spec: ServingSpec, dialogues: Sequence[Dialogue]) -> Artifact:
    """The artifact with its parity record: the runtime that serves it against ``model`` in memory (gate G0).

    dialogues: real ones; the first `Protocol.parity_dialogues` are enough
    """
    with open_session(_everywhere(spec)) as session:
        return replace(spec.artifact, parity=parity.check(model, spec.artifact, session, dialogues))


def examine(
    reference: ServingSpec,
    candidate: ServingSpec,
    found: Workload,
    replies_ref: tuple[ScoredReply, ...],
    progress: Progress,
    scores: tuple[TeacherScore, ...] = (),
) -> QualityInputs:
    """Read everything that the gate needs, in the runtime that will serve the candidate.

    Args:
        scores: what `teacher_scores` gives, where it was asked before.

    Raises:
        ModelError: the candidate's artifact was never checked for parity.
    """
    proof = candidate.artifact.parity
    if proof is None:
        raise ModelError(f"{candidate.artifact.path} has no parity record", hint="build it again")
    proof = against_reference(proof, found, candidate.artifact.path)
    if proof.problems or not proof.finite:
        return QualityInputs(proof, (), (), ())  # the gate fails it on G0 alone
    replies = generate_replies(candidate, found.requests(), progress, "candidate's replies")
    scores = scores or teacher_scores(reference, candidate, found, progress)
    return QualityInputs(proof, scores, replies_ref, replies)


def against_reference(proof: Parity, found: Workload, folder: Path) -> Parity:
    """Join to the parity record whether the candidate reads and stops as the reference does.

    Args:
        found: the dialogues, with the reference's tokenizer.
        folder: the candidate's, with its own tokenizer, template and stop tokens. A trimmed vocabulary may number its
            tokens anew, and must read a text of kept tokens as before.
    """
    try:
        own = ChatTokenizer.load(folder)
    except ModelError as error:
        return replace(proof, template_equal=False, problems=(*proof.problems, str(error)))
    theirs = found.tokenizer
    faults = []
    if own.template != theirs.template:
        faults.append("the chat template is not the reference's")
    renaming = VocabularyMap.between(theirs, own)
    stops = set(own.eos_ids) if renaming is None else {int(renaming.kept[i]) for i in own.eos_ids}
    if stops != set(theirs.eos_ids):
        faults.append(f"stop tokens {sorted(own.eos_ids)} are not the reference's {sorted(theirs.eos_ids)}")
    pairs = ((d.id, _rendered_ids(theirs, d), _rendered_ids(own, d)) for d in found.dialogues)
    alike = operator.eq if renaming is None else renaming.allows
    differing = next((name for name, whole, mine in pairs if not alike(whole, mine)), None)
    if differing is not None:
        faults.append(f"token ids of dialogue {differing} are not the reference's")
    return replace(
        proof,
        template_equal=proof.template_equal and own.template == theirs.template,
        eos_equal=proof.eos_equal and stops == set(theirs.eos_ids),
        token_ids_equal=proof.token_ids_equal and differing is None,
        problems=(*proof.problems, *faults),
    )


def _rendered_ids(tokenizer: ChatTokenizer, dialogue: Dialogue) -> list[int]:
    return tokenizer.encode(tokenizer.render(dialogue, prompt=False))


def teacher_scores(
    reference: ServingSpec, candidate: ServingSpec, found: Workload, progress: Progress
) -> tuple[TeacherScore, ...]:
    """Both models over the same turns in lockstep, so that no logits have to be stored."""
    theirs, own = found.tokenizer, ChatTokenizer.load(candidate.artifact.path)
    renaming = VocabularyMap.between(theirs, own)
    scores = []
    with _teller(reference) as ref, _teller(candidate) as cand:
        for index, dialogue in enumerate(found.dialogues):
            tokens, logits = theirs.scored(dialogue), (ref.logits(dialogue), cand.logits(dialogue))
            if renaming is None:
                scores.append(teacher_score(dialogue.id, tokens, *logits, theirs.eos_ids))
            else:
                whole, trimmed = (tokens, logits[0], theirs.eos_ids), (own.scored(dialogue), logits[1], own.eos_ids)
                scores.append(trimmed_score(dialogue.id, whole, trimmed, renaming))
            if index % 50 == 49:
                progress(f"likelihoods: {(index + 1) / len(found.dialogues):.0%}")
    return tuple(scores)


class _Teller(Protocol):
    """Half a `Session`."""

    def logits(self, dialogue: Dialogue) -> NDArray[np.float32]: ...


def _teller(spec: ServingSpec) -> AbstractContextManager[_Teller]:
    """What tells logits: in this process, where the artifact can be loaded here."""
    return ServingProcess(_everywhere(spec)) if spec.command else open_session(_everywhere(spec))


def _everywhere(spec: ServingSpec) -> ServingSpec:
    """On all cores: likelihoods are prefill only."""
    return replace(spec, at=replace(spec.at, threads=None, threads_prefill=None))
