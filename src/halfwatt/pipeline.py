"""From a recipe to an artifact, and from an artifact to what the gate reads.

build    model + recipe -> steps -> export -> parity in the exported runtime -> artifact on disk, made once
examine  reference and candidate artifact -> teacher-forced scores and replies on the same dialogues
"""

from __future__ import annotations

import operator
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from halfwatt import prefixes
from halfwatt.chat_model import ChatModel, read_sampling
from halfwatt.dialogue import Dialogue, DialogueSet
from halfwatt.errors import BadInput, ModelError
from halfwatt.files import write_atomic
from halfwatt.generation import Prompt, generate, prompts
from halfwatt.journal import Journal
from halfwatt.metrics import teacher_score, trimmed_score
from halfwatt.recipe import Recipe
from halfwatt.records import (
    Artifact,
    OperatingPoint,
    Parity,
    Profile,
    QualityInputs,
    Sampling,
    ScoredReply,
    TeacherScore,
    from_json,
    to_json,
)
from halfwatt.renaming import Renaming
from halfwatt.runtimes import parity
from halfwatt.runtimes.llamacpp import LlamaCpp
from halfwatt.steps.base import Step, StepContext, require
from halfwatt.steps.vocabulary import Trim
from halfwatt.tokenizer import ChatTokenizer
from halfwatt.worker import Spec, Worker, opened
from halfwatt.workload import Progress

MAX_TURNS = 4  # replies judged and measured per dialogue
SEEDS = (1, 2)  # sampled replies beside the greedy one
MIN_CAP = 256
PARITY_DIALOGUES = 64


@dataclass(frozen=True, slots=True)
class Speech:
    """How a model talks: its tokenizer and template, its own sampling, the tokens it can look back on."""

    tokenizer: ChatTokenizer
    generation: Sampling
    context: int

    @classmethod
    def by(cls, model: ChatModel) -> Speech:
        """Of a model in memory."""
        return cls(model.tokenizer, model.generation, model.context)

    @classmethod
    def of(cls, artifact: Artifact) -> Speech:
        """Read from an artifact's folder.

        Raises:
            ModelError: the folder tells no context length.
        """
        if artifact.context is None:
            raise ModelError(f"{artifact.path} tells no context length", hint="export the model again")
        return cls(ChatTokenizer.load(artifact.path), read_sampling(artifact.path), artifact.context)


@dataclass(frozen=True, slots=True)
class Traffic:
    """The dialogues of one split, cut so that every prompt and its longest reply fit the context."""

    dialogues: tuple[Dialogue, ...]
    tokenizer: ChatTokenizer
    own: Sampling  # the model's own generation settings
    cap: int  # the most tokens a reply may take
    notes: tuple[str, ...]  # what had to be cut or left out, in words

    @property
    def greedy(self) -> Sampling:
        """How replies are made inside energy windows: greedy, so that every arm can be asked the same again."""
        return Sampling(max_new_tokens=self.cap, repetition_penalty=self.own.repetition_penalty)

    def prompts(self) -> list[list[Prompt]]:
        """The replies that the gate asks for, per dialogue."""
        return prompts(self.dialogues, self.own, cap=self.cap, max_turns=MAX_TURNS, seeds=SEEDS)


def traffic(found: DialogueSet, speech: Speech) -> Traffic:
    """Cut ``found`` to the context of the model.

    The cap on a reply is four times the 99th percentile of the human replies, at least 256, at most half the context.

    Raises:
        BadInput: nothing fits.
    """
    tokenizer, context = speech.tokenizer, speech.context
    lengths = [len(tokenizer.encode(d.messages[t].content)) for d in found.dialogues for t in d.assistant_turns]
    cap = min(max(MIN_CAP, 4 * round(float(np.percentile(lengths, 99)))), context // 2)
    kept: list[Dialogue] = []
    cut = 0
    for dialogue in found.dialogues:
        turns = _fitting_turns(dialogue, tokenizer, context - cap)
        if turns:
            kept.append(Dialogue(dialogue.id, dialogue.messages[: turns[-1] + 1], dialogue.source))
        cut += len(turns) < len(dialogue.assistant_turns[:MAX_TURNS])
    if not kept:
        raise BadInput(f"no dialogue of the {found.split} split fits the model's context of {context} tokens")
    notes = []
    if cut:
        notes.append(f"{found.split}: {cut} of {len(found)} dialogues were cut to what fits {context - cap} tokens")
    if len(kept) < len(found):
        notes.append(f"{found.split}: {len(found) - len(kept)} dialogues whose first turn does not fit were left out")
    return Traffic(tuple(kept), tokenizer, speech.generation, cap, tuple(notes))


def profile(found: Traffic, users: int, replies_per_hour: float | None = None) -> Profile:
    """How long prompts and replies are; how many ask at once and how often, which the user says."""
    tokenizer = found.tokenizer
    asked, repeated, said = list[int](), 0, list[int]()
    for dialogue in found.dialogues:
        before = 0
        for turn in dialogue.assistant_turns[:MAX_TURNS]:
            asked.append(len(tokenizer.prompt_ids(dialogue.before(turn))))
            said.append(len(tokenizer.encode(dialogue.messages[turn].content)))
            repeated += before
            before = asked[-1]
    return Profile(
        dialogues=len(found.dialogues),
        replies_per_dialogue=len(asked) / len(found.dialogues),
        prompt_tokens=_middle_and_long(asked),
        repeated=repeated / sum(asked),
        human_reply_tokens=_middle_and_long(said),
        users=users,
        replies_per_hour=replies_per_hour,
    )


def _middle_and_long(counts: Sequence[int]) -> tuple[float, float]:
    middle, long = np.percentile(counts, [50, 95])
    return float(middle), float(long)


def _fitting_turns(dialogue: Dialogue, tokenizer: ChatTokenizer, room: int) -> list[int]:
    turns = []
    for turn in dialogue.assistant_turns[:MAX_TURNS]:
        whole = Dialogue(dialogue.id, dialogue.messages[: turn + 1])
        if len(tokenizer.scored(whole).ids) > room:
            break
        turns.append(turn)
    return turns


def build(
    model: ChatModel,
    recipe: Recipe,
    dialogues: Sequence[Dialogue],
    cache: Path,
    device: str,
    context: StepContext | None = None,
) -> Artifact:
    """Apply the steps, export, and prove the export in its own runtime. Made once per fingerprint.

    Args:
        dialogues: real dialogues for the parity check (gate G0); the first 64 are used.
        context: what the steps may use, such as dialogues to train on.

    Raises:
        ModelError: a step cannot be applied to this model; every reason is named.
    """
    context = context or StepContext()
    folder = cache / f"{recipe.slug}-{recipe.fingerprint(model.sha256, context.fingerprint)}"
    record = folder / "artifact.json"
    if record.exists():
        found = from_json(record.read_bytes(), Artifact)
        if found.parity is not None:
            return found
    shutil.rmtree(folder, ignore_errors=True)  # an export whose parity was not finished is made anew
    made = run(model, recipe, context)
    exported = LlamaCpp(device=device).export(made, folder)
    artifact = prove(made, Spec(exported, OperatingPoint(), device), dialogues)
    write_atomic(record, to_json(artifact).encode())
    return artifact


def prove(model: ChatModel, spec: Spec, dialogues: Sequence[Dialogue]) -> Artifact:
    """The artifact with its parity record: the runtime that serves it against ``model`` in memory (gate G0)."""
    with opened(_everywhere(spec)) as session:
        return replace(spec.artifact, parity=parity.check(model, spec.artifact, session, dialogues[:PARITY_DIALOGUES]))


def run(model: ChatModel, recipe: Recipe, context: StepContext) -> ChatModel:
    """Apply the steps in order. Steps that distil learn from ``model``, its vocabulary trimmed where theirs is.

    What a step made, and its checkpoints, lie under the name of all steps up to it: recipes that begin alike, or go on,
    do that work once.

    Raises:
        ModelError: a step does not fit the model.
    """
    original, made = model, model
    for number, step in enumerate(recipe.steps, start=1):
        until_here = Recipe("", recipe.steps[:number]).fingerprint(model.sha256, context.fingerprint)
        work = None if context.work is None else context.work / until_here  # the step adds its name
        here = replace(context, original=original, work=work, shared=context.work)
        shared = made is original
        made = _made(step, made, here)
        if isinstance(step, Trim):
            original = made if shared else apply(step, original, here)
    return made


def _made(step: Step, model: ChatModel, context: StepContext) -> ChatModel:
    """What a step makes, or what it made before. Its checkpoints have served once the whole model is kept."""
    if context.work is None:
        return apply(step, model, context)
    found = prefixes.find(context.work / "made", model)
    if found is not None:
        return found
    made = apply(step, model, context)
    if not made.grid and made.draft is None:
        prefixes.keep(made, context.work / "made")
        folder = context.bench(step.name, model.tokenizer.pad_id).folder
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
    return made


def apply(step: Step, model: ChatModel, context: StepContext | None = None) -> ChatModel:
    """Run one step.

    Raises:
        ModelError: the step does not fit the model; every reason is named.
    """
    require(step, model)
    return step.apply(model, context or StepContext())


def reference_replies(
    spec: Spec, found: Traffic, journal: Journal, split: str, progress: Progress
) -> tuple[ScoredReply, ...]:
    """The reference's replies to one split, made once per run."""
    return journal.once(
        f"reference-{split}",
        tuple[ScoredReply, ...],
        lambda: generate(spec, found.prompts(), progress, f"original's replies, {split} split"),
    )


def examine(
    reference: Spec,
    candidate: Spec,
    found: Traffic,
    replies_ref: tuple[ScoredReply, ...],
    progress: Progress,
    scores: tuple[TeacherScore, ...] = (),
) -> QualityInputs:
    """Read everything that the gate needs, in the runtime that will serve the candidate.

    Args:
        scores: what `teacher_forced` gives, where it was asked before.

    Raises:
        ModelError: the candidate's artifact was never checked for parity.
    """
    proof = candidate.artifact.parity
    if proof is None:
        raise ModelError(f"{candidate.artifact.path} has no parity record", hint="build it again")
    proof = against_reference(proof, found, candidate.artifact.path)
    if proof.problems or not proof.finite:
        return QualityInputs(proof, (), (), ())  # the gate fails it on G0 alone
    replies = generate(candidate, found.prompts(), progress, "candidate's replies")
    scores = scores or teacher_forced(reference, candidate, found, progress)
    return QualityInputs(proof, scores, replies_ref, replies)


def against_reference(proof: Parity, found: Traffic, folder: Path) -> Parity:
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
    renaming = Renaming.between(theirs, own)
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


def teacher_forced(reference: Spec, candidate: Spec, found: Traffic, progress: Progress) -> tuple[TeacherScore, ...]:
    """Both models over the same turns in lockstep, so that no logits have to be stored."""
    theirs, own = found.tokenizer, ChatTokenizer.load(candidate.artifact.path)
    renaming = Renaming.between(theirs, own)
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


def _teller(spec: Spec) -> AbstractContextManager[_Teller]:
    """What tells logits: in this process, where the artifact can be loaded here."""
    return Worker(_everywhere(spec)) if spec.command else opened(_everywhere(spec))


def _everywhere(spec: Spec) -> Spec:
    """On all cores: likelihoods are prefill only."""
    return replace(spec, at=replace(spec.at, threads=None, threads_prefill=None))
