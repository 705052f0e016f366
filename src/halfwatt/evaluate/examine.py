"""What the gate reads: reference and candidate over the same dialogues, in the runtime that serves them.

    G0       the candidate's parity record, and whether it reads and stops as the reference does
    G1, G2   both models' likelihoods of the human replies
    G3..G6   both models' own replies to the same requests
    G7       what a judge thinks of these replies, and of people's

Never inside an energy window. What it means is decided in `halfwatt.evaluate.gate`.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from halfwatt.core.errors import ExportDiffers, HalfwattError, ModelError
from halfwatt.core.settings import Margins
from halfwatt.core.types import Progress
from halfwatt.dialogues.dialogue import Dialogue
from halfwatt.evaluate import parity
from halfwatt.evaluate.facts import facts_of
from halfwatt.evaluate.fit import fit_of_candidate, fit_of_reference, fit_requests
from halfwatt.evaluate.integrity import integrity_checks
from halfwatt.evaluate.likelihood import TokenLogits, predicting, sum_of_scores, teacher_score
from halfwatt.evaluate.records import Fit, QualityInputs, ScoredReply, TeacherScore
from halfwatt.evaluate.replies import generate_replies
from halfwatt.evaluate.requests import Workload
from halfwatt.formats.artifact import Artifact, Parity
from halfwatt.models.chat_model import ChatModel
from halfwatt.models.sampling import read_sampling
from halfwatt.models.tokenizer import ChatTokenizer, without_odd
from halfwatt.models.vocabulary_map import VocabularyMap
from halfwatt.runtimes.base import Session
from halfwatt.runtimes.cascade import STUDENT, Cascade, Cascading, Member
from halfwatt.runtimes.serving_process import ServingProcess, ServingSpec, open_session

_Asked = Session | ServingProcess


def prove(model: ChatModel, spec: ServingSpec, dialogues: Sequence[Dialogue]) -> Artifact:
    """The artifact with its parity record on real ``dialogues``: its runtime against ``model`` in memory (gate G0)."""
    dialogues = [dialogue for dialogue, _ in without_odd(dialogues, model.tokenizer.scored)[0]]
    with open_session(_on_all_cores(spec)) as session:
        own = parity.check(model, spec.artifact, session, dialogues)
    return replace(spec.artifact, parity=replace(own, remarks=_remarks(spec, model.tokenizer, dialogues)))


@dataclass(frozen=True, slots=True)
class Yardstick:
    """What every candidate is held against: the reference, and its replies as a judge sees them."""

    reference: ServingSpec
    judge: ServingSpec
    replies: tuple[ScoredReply, ...]
    fit: tuple[Fit, ...]

    @classmethod
    def of(
        cls, reference: ServingSpec, judge: ServingSpec, workload: Workload, progress: Progress, label: str = "replies"
    ) -> Yardstick:
        """Let the reference answer, and the judge read that."""
        replies = generate_replies(reference, workload.requests(), progress, label)
        return cls(reference, judge, replies, fit_of_reference(judge, workload, replies, progress))


def prove_given(spec: ServingSpec, dialogues: Sequence[Dialogue]) -> Artifact:
    """The artifact of a file that is served as it was given, with its parity record."""
    chat = ChatTokenizer.load(spec.artifact.path)
    dialogues = [dialogue for dialogue, _ in without_odd(dialogues, chat.scored)[0]]
    own = parity.as_it_is(chat, dialogues)
    return replace(spec.artifact, parity=replace(own, remarks=_remarks(spec, chat, dialogues)))


def require_equal(artifact: Artifact, margins: Margins) -> None:
    """Raises ExportDiffers where the artifact's record says that it is not the model that it was exported from."""
    checks = [] if artifact.parity is None else integrity_checks(artifact.parity, margins)
    if failed := [check for check in checks if check.verdict != "PASS"]:
        what = f"{artifact.path.name} is not the model that it was exported from: {failed[0].name} does not hold"
        raise ExportDiffers(what, got=failed[0].detail)


def _remarks(spec: ServingSpec, chat: ChatTokenizer, dialogues: Sequence[Dialogue]) -> tuple[str, ...]:
    """What the runtime leaves out of the model's settings, and what others read otherwise: halfwatt hands ids to the
    runtime, other programs let it split text by itself. It is asked in a process of its own: there are texts that end
    it."""
    if spec.artifact.runtime != "llamacpp" or spec.command:
        return ()
    beyond = ", ".join(read_sampling(spec.artifact.path).only_transformers)
    left_out = f"llama.cpp leaves out what generation_config.json asks for: {beyond}" if beyond else None
    label = "the runtime's own tokenizer (used by other programs, never by us)"
    try:
        with ServingProcess(spec) as process:
            different = parity.first_difference(label, process.tokenize, chat, dialogues)
    except HalfwattError as error:
        different = f"{label} gave up: {error}"
    return tuple(filter(None, [different, left_out]))


def examine(
    yardstick: Yardstick,
    candidate: ServingSpec,
    workload: Workload,
    progress: Progress,
    scores: tuple[TeacherScore, ...] = (),
) -> QualityInputs:
    """Read everything that the gate needs, in the runtime that will serve the candidate.

    Args:
        scores: what `teacher_scores` gives, where it was called before.

    Raises:
        ModelError: the candidate's artifact was never checked for parity.
    """
    own = parity_beside(candidate, workload)
    if own.problems or not own.finite:
        return QualityInputs(own, (), (), ())  # the gate fails it on G0 alone
    replies = generate_replies(candidate, workload.requests(), progress, "candidate's replies")
    scores = scores or teacher_scores(yardstick.reference, candidate, workload, progress)
    fit = fit_of_candidate(yardstick.judge, workload, yardstick.fit, replies, progress)
    return QualityInputs(own, scores, yardstick.replies, replies, facts_of(workload.dialogues), fit)


def examine_likelihood(candidate: ServingSpec, workload: Workload, scores: tuple[TeacherScore, ...]) -> QualityInputs:
    """What is known before anybody replies."""
    return QualityInputs(parity_beside(candidate, workload), scores, (), ())


def examine_fit(
    judge: ServingSpec, candidate: ServingSpec, workload: Workload, known: tuple[Fit, ...], progress: Progress
) -> QualityInputs:
    """Read only how the candidate's replies fit, of dialogues that G7 alone asks about; ``known`` as for people."""
    own = parity_beside(candidate, workload)
    replies = generate_replies(candidate, fit_requests(workload), progress, "candidate's further replies")
    return QualityInputs(own, (), (), (), (), fit_of_candidate(judge, workload, known, replies, progress))


def parity_beside(candidate: ServingSpec, workload: Workload) -> Parity:
    """Its record, joined to whether it reads and stops as the reference. Raises ModelError where it has none."""
    if candidate.artifact.parity is None:
        raise ModelError(f"{candidate.artifact.path} has no parity record", hint="build it again")
    folder = candidate.artifact.path
    own = reference_parity(candidate.artifact.parity, workload, folder)
    return reference_parity(own, workload, folder / STUDENT) if candidate.artifact.runtime == Cascading.name else own


def reference_parity(own: Parity, workload: Workload, folder: Path) -> Parity:
    """Join to the parity record whether the candidate reads and stops as the reference does.

    Args:
        workload: the dialogues, with the reference's tokenizer.
        folder: the candidate's, with its own tokenizer, template and stop tokens. A trimmed vocabulary may number its
            tokens anew, and must read a text of kept tokens as before.
    """
    try:
        candidate = ChatTokenizer.load(folder)
    except ModelError as error:
        return replace(own, template_equal=False, problems=(*own.problems, str(error)))
    reference = workload.tokenizer
    vocabulary = VocabularyMap.between(reference, candidate)
    stops = candidate.eos_ids if vocabulary is None else (int(vocabulary.kept[i]) for i in candidate.eos_ids)
    alike = operator.eq if vocabulary is None else vocabulary.allows
    pairs = ((d.id, _rendered_ids(reference, d), _rendered_ids(candidate, d)) for d in workload.dialogues)
    differing = next((name for name, theirs, ours in pairs if not alike(theirs, ours)), None)
    same_template = candidate.template == reference.template or candidate.template == _at_once(reference)
    same_stops = set(stops) == set(reference.eos_ids)
    problems = {
        "the chat template is not the reference's": not same_template,
        f"stop tokens {sorted(candidate.eos_ids)} are not the reference's {sorted(reference.eos_ids)}": not same_stops,
        f"token ids of dialogue {differing} are not the reference's": differing is not None,
    }
    return replace(
        own,
        template_equal=own.template_equal and same_template,
        eos_equal=own.eos_equal and same_stops,
        token_ids_equal=own.token_ids_equal and differing is None,
        problems=(*own.problems, *(problem for problem, present in problems.items() if present)),
    )


def _at_once(reference: ChatTokenizer) -> str | None:
    """The template of who learned from people what the reference thinks about first."""
    with suppress(ModelError):
        return reference.answering_at_once().template
    return None


def _rendered_ids(tokenizer: ChatTokenizer, dialogue: Dialogue) -> list[int]:
    return tokenizer.encode(tokenizer.render(dialogue, prompt=False))


def teacher_scores(
    reference: ServingSpec, candidate: ServingSpec, workload: Workload, progress: Progress
) -> tuple[TeacherScore, ...]:
    """Both models over the same turns in lockstep, so that no logits have to be stored. Of a cascade each turn is by
    whom it is for; where that is the reference itself, it is asked once."""
    router, behind = None, None
    if candidate.artifact.runtime == Cascading.name:
        cascade = Cascade.read(candidate.artifact)
        router, candidate = cascade.router, _member(cascade.student, candidate)
        if cascade.original.artifact.sha256 != reference.artifact.sha256:
            behind = _member(cascade.original, candidate)
    scores = []
    with ExitStack() as stack:
        ref = stack.enter_context(_open_logits(reference))
        cand = stack.enter_context(_open_logits(candidate))
        theirs = workload.tokenizer
        by_candidate = _Pair(ref, cand, theirs, ChatTokenizer.load(candidate.artifact.path))
        by_original = _Pair(ref, None, theirs, theirs)
        if behind is not None:
            other = stack.enter_context(_open_logits(behind))
            by_original = _Pair(ref, other, theirs, ChatTokenizer.load(behind.artifact.path))
        for count, dialogue in enumerate(workload.dialogues, start=1):
            prompts = [dialogue.before(turn) for turn in dialogue.assistant_turns]
            pairs = [by_original if router and router.asks_original(prompt) else by_candidate for prompt in prompts]
            if len(set(pairs)) == 1:
                scores.append(pairs[0].score(dialogue))
            else:  # each turn as it is asked
                talks = [dialogue.before(turn + 1) for turn in dialogue.assistant_turns]
                turns = zip(pairs, talks, strict=True)
                scores.append(sum_of_scores([pair.score(talk, last=True) for pair, talk in turns]))
            if count % 50 == 0:
                progress(f"likelihoods: {count / len(workload.dialogues):.0%}")
    return tuple(scores)


def _member(member: Member, cascade: ServingSpec) -> ServingSpec:
    """One of the two, as it is asked for logits: with the cache that it is served with."""
    return replace(cascade, artifact=member.artifact, at=replace(cascade.at, kv_bits=member.at.kv_bits))


class _Pair:
    """Reference and candidate, asked for logits side by side; without one it is the reference beside itself."""

    def __init__(self, ref: _Asked, cand: _Asked | None, theirs: ChatTokenizer, ours: ChatTokenizer) -> None:
        self._ref, self._cand, self._theirs = ref, cand, theirs
        self._vocabulary = VocabularyMap.between(theirs, ours)
        # without a vocabulary of its own the ids are the reference's, or G0 has failed it
        self._ours = theirs if self._vocabulary is None else ours

    def score(self, dialogue: Dialogue, *, last: bool = False) -> TeacherScore:
        """last: of the last reply alone"""
        whole = _token_logits(self._ref, self._theirs, dialogue, last=last)
        if self._cand is None:
            return teacher_score(dialogue.id, whole, whole)
        own = _token_logits(self._cand, self._ours, dialogue, last=last)
        return teacher_score(dialogue.id, whole, own, self._vocabulary)


def _token_logits(model: _Asked, chat: ChatTokenizer, dialogue: Dialogue, *, last: bool) -> TokenLogits:
    tokens = chat.scored(dialogue)
    tokens = tokens.of_last_reply() if last else tokens
    return TokenLogits(tokens, model.logits(dialogue, predicting(tokens).tolist()), chat.eos_ids)


def _open_logits(spec: ServingSpec) -> AbstractContextManager[_Asked]:
    """In this process, where the artifact can be loaded here."""
    return ServingProcess(_on_all_cores(spec)) if spec.command else open_session(_on_all_cores(spec))


def _on_all_cores(spec: ServingSpec) -> ServingSpec:
    """Likelihoods are prefill only."""
    return replace(spec, at=replace(spec.at, threads=None, threads_prefill=None))
