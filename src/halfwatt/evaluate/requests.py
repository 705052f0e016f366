"""What is asked of a model: the dialogues cut to its context, the replies asked for, the profile of both."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from halfwatt.core.errors import BadInput, ModelError
from halfwatt.core.settings import RequestSettings
from halfwatt.dialogues.dialogue import Dialogue, DialogueSet
from halfwatt.evaluate.records import Profile
from halfwatt.formats.artifact import Artifact
from halfwatt.models.chat_model import ChatModel
from halfwatt.models.sampling import Sampling, read_sampling
from halfwatt.models.tokenizer import ChatTokenizer


@dataclass(frozen=True, slots=True)
class ReplyRequest:
    """One reply to be made: the assistant's message at ``turn`` of ``dialogue``, greedy (seed None) or sampled."""

    dialogue: Dialogue
    turn: int
    seed: int | None
    sampling: Sampling


def reply_requests(
    dialogues: Sequence[Dialogue], own: Sampling, *, cap: int, seeds: Sequence[int]
) -> list[list[ReplyRequest]]:
    """Per dialogue: each turn greedy, then each turn under the model's own sampling with each seed.

    A model whose generation_config does not sample is judged on its greedy replies alone.
    """
    greedy = Sampling(max_new_tokens=cap, repetition_penalty=own.repetition_penalty)
    sampled = [] if own.temperature == 0 else list(seeds)
    made = []
    for index, dialogue in enumerate(dialogues):
        turns = dialogue.assistant_turns
        rows = [ReplyRequest(dialogue, turn, None, greedy) for turn in turns]
        for seed in sampled:
            for turn in turns:
                own_seed = replace(own, max_new_tokens=cap, seed=seed * 1_000_003 + index * 101 + turn)
                rows.append(ReplyRequest(dialogue, turn, seed, own_seed))
        made.append(rows)
    return made


def prompts_of(dialogues: Sequence[Dialogue]) -> list[list[Dialogue]]:
    """Per dialogue of a workload, the prompt of each of its replies, in order."""
    return [[d.before(turn) for turn in d.assistant_turns] for d in dialogues]


def balanced_chunks(prompts: Sequence[Sequence[Dialogue]], replies: float, draw: random.Random) -> list[list[Dialogue]]:
    """Whole dialogues in groups of about ``replies`` replies, two dialogues or more; each group is like the whole.

    The order in which dialogues come says nothing: files are often sorted by source. Ranked by length and dealt out at
    random, one of each rank to a group, every group holds short and long ones in the same shares.
    """
    total = sum(len(turns) for turns in prompts)
    count = max(1, min(len(prompts) // 2, round(total / max(1.0, replies))))
    ranked = sorted(prompts, key=lambda turns: sum(len(m.content) for m in turns[-1].messages))
    chunks: list[list[Dialogue]] = [[] for _ in range(count)]
    for start in range(0, len(ranked), count):
        layer = ranked[start : start + count]
        for chunk, turns in zip(draw.sample(chunks, len(layer)), layer, strict=True):
            chunk += turns
    return chunks


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """How a model talks: its tokenizer and template, its own sampling, the tokens it can look back on."""

    tokenizer: ChatTokenizer
    generation: Sampling
    context: int

    @classmethod
    def of_model(cls, model: ChatModel) -> ChatFormat:
        """Of a model in memory."""
        return cls(model.tokenizer, model.generation, model.context)

    @classmethod
    def of_artifact(cls, artifact: Artifact) -> ChatFormat:
        """Read from an artifact's folder.

        Raises:
            ModelError: the folder tells no context length.
        """
        if artifact.context is None:
            raise ModelError(f"{artifact.path} tells no context length", hint="export the model again")
        return cls(ChatTokenizer.load(artifact.path), read_sampling(artifact.path), artifact.context)


@dataclass(frozen=True, slots=True)
class Workload:
    """The dialogues of one split, cut to the turns that are asked: all that are left, by everybody who asks."""

    dialogues: tuple[Dialogue, ...]
    tokenizer: ChatTokenizer
    generation: Sampling  # the model's own generation settings
    cap: int  # the most tokens a reply may take
    notes: tuple[str, ...]  # what had to be cut or left out, in words
    seeds: tuple[int, ...] = ()  # of the sampled replies beside the greedy one
    seed: int = 0  # of the order in which the dialogues are asked

    @property
    def greedy(self) -> Sampling:
        """How replies are made inside energy windows: greedy, so that every arm can be asked the same again."""
        return Sampling(max_new_tokens=self.cap, repetition_penalty=self.generation.repetition_penalty)

    def requests(self) -> list[list[ReplyRequest]]:
        """The replies that the gate asks for, per dialogue."""
        return reply_requests(self.dialogues, self.generation, cap=self.cap, seeds=self.seeds)


def make_workload(found: DialogueSet, speech: ChatFormat, settings: RequestSettings, seed: int = 0) -> Workload:
    """Cut ``found`` to the first turns of each dialogue, and to those that fit the model's context.

    The cap on a reply is four times the 99th percentile of the human replies, at least `RequestSettings.min_cap`,
    at most half the context.

    Raises:
        BadInput: nothing fits.
    """
    tokenizer, context = speech.tokenizer, speech.context
    lengths = [len(tokenizer.encode(d.messages[t].content)) for d in found.dialogues for t in d.assistant_turns]
    cap = min(max(settings.min_cap, 4 * round(float(np.percentile(lengths, 99)))), context // 2)
    kept: list[Dialogue] = []
    cut = 0
    for dialogue in found.dialogues:
        wanted = dialogue.assistant_turns[: settings.max_turns]
        turns = _fitting_turns(dialogue, wanted, tokenizer, context - cap)
        if turns:
            kept.append(Dialogue(dialogue.id, dialogue.messages[: turns[-1] + 1], dialogue.source))
        cut += len(turns) < len(wanted)
    if not kept:
        raise BadInput(f"no dialogue of the {found.split} split fits the model's context of {context} tokens")
    notes = []
    if cut:
        notes.append(f"{found.split}: {cut} of {len(found)} dialogues were cut to what fits {context - cap} tokens")
    if len(kept) < len(found):
        notes.append(f"{found.split}: {len(found) - len(kept)} dialogues whose first turn does not fit were left out")
    return Workload(tuple(kept), tokenizer, speech.generation, cap, tuple(notes), settings.seeds, seed)


def workload_profile(found: Workload, users: int, replies_per_hour: float | None = None) -> Profile:
    """How long prompts and replies are; how many ask at once and how often, which the user says."""
    tokenizer = found.tokenizer
    asked, repeated, said = list[int](), 0, list[int]()
    for dialogue in found.dialogues:
        before = 0
        for turn in dialogue.assistant_turns:
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


def _fitting_turns(dialogue: Dialogue, wanted: Sequence[int], tokenizer: ChatTokenizer, room: int) -> list[int]:
    turns = []
    for turn in wanted:
        whole = Dialogue(dialogue.id, dialogue.messages[: turn + 1])
        if len(tokenizer.scored(whole).ids) > room:
            break
        turns.append(turn)
    return turns
