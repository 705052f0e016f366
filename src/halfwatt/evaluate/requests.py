"""What every model is asked: the dialogues of a split, cut to the turns that are asked, and the requests for replies.

`make_workload` alone says which turns those are: of each dialogue the first ones, as many as fit the model's context.
Energy windows, likelihoods and the gate's replies take every assistant turn that is left, and so the same replies.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product, takewhile
from typing import TYPE_CHECKING

import numpy as np

from halfwatt.core.errors import BadInput, ModelError
from halfwatt.core.settings import RequestSettings
from halfwatt.dialogues.dialogue import Dialogue, DialogueSet
from halfwatt.evaluate.records import Profile
from halfwatt.formats.artifact import Artifact
from halfwatt.models.sampling import Sampling, read_sampling
from halfwatt.models.tokenizer import ChatTokenizer, without_odd

if TYPE_CHECKING:
    from halfwatt.models.chat_model import ChatModel


CAP_OVER_HUMAN = 2  # of the cap on a reply over the 99th percentile of the human ones
LEAST_OF_A_KIND = 14  # dialogues, of traffic of two kinds: one in each half of a final run's least blocks
_BRIEF = 64  # tokens of a reply that tell ways of serving one model apart


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """How a model talks: its tokenizer and template, its own sampling, the tokens it can look back on."""

    tokenizer: ChatTokenizer
    generation: Sampling
    context: int

    @classmethod
    def of_model(cls, model: ChatModel) -> ChatFormat:
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
class ReplyRequest:
    """One reply to generate: the assistant's message at ``turn`` of ``dialogue``, greedy (seed None) or sampled."""

    dialogue: Dialogue
    turn: int
    seed: int | None
    sampling: Sampling

    @property
    def prompt(self) -> Dialogue:
        """All messages before the reply."""
        return self.dialogue.before(self.turn)


@dataclass(frozen=True, slots=True)
class Workload:
    """The dialogues of one split, cut to the turns that are asked: all that are left, by everybody who asks."""

    dialogues: tuple[Dialogue, ...]
    tokenizer: ChatTokenizer
    generation: Sampling  # the model's own settings
    cap: int  # the most tokens a reply may take
    notes: tuple[str, ...]  # what had to be cut or left out, in words
    seeds: tuple[int, ...] = ()  # of the sampled replies beside the greedy one
    seed: int = 0  # of the order in which the dialogues are asked
    fit_dialogues: int = 0  # that G7 asks about, at most, and tokens of each reply; 0 = it is not asked
    fit_tokens: int = 0
    of_two_kinds: bool = False  # by the source of its dialogues; each block of a measuring run has both in their shares

    @property
    def greedy(self) -> Sampling:
        """How replies are generated in energy windows: greedy, so that every arm can be asked the same again."""
        return Sampling(max_new_tokens=self.cap, repetition_penalty=self.generation.repetition_penalty)

    def brief(self) -> Workload:
        """With replies cut early: an original that never stops would spend minutes on each way of serving it."""
        return replace(self, cap=min(self.cap, _BRIEF))

    def part(self, start: int, stop: int) -> Workload:
        """Some of the dialogues."""
        return replace(self, dialogues=self.dialogues[start:stop])

    def shuffled(self) -> Workload:
        """In an order that hangs on the seed alone: files are often sorted by source, and the first ones are asked."""
        return replace(self, dialogues=tuple(random.Random(self.seed).sample(self.dialogues, len(self.dialogues))))

    def requests(self) -> list[list[ReplyRequest]]:
        """What the gate asks for, per dialogue: each turn greedy, then each under the model's own sampling by seed.

        A model whose generation_config does not sample is judged on its greedy replies alone.
        """
        seeds = () if self.generation.temperature == 0 else self.seeds
        requests = []
        for index, dialogue in enumerate(self.dialogues):
            own = [ReplyRequest(dialogue, turn, None, self.greedy) for turn in dialogue.assistant_turns]
            for seed, turn in product(seeds, dialogue.assistant_turns):
                draw = seed * 1_000_003 + index * 101 + turn
                sampling = replace(self.generation, max_new_tokens=self.cap, seed=draw)
                own.append(ReplyRequest(dialogue, turn, seed, sampling))
            requests.append(own)
        return requests


def make_workload(
    dialogue_set: DialogueSet, chat_format: ChatFormat, settings: RequestSettings, seed: int = 0
) -> Workload:
    """Cut each dialogue to its first turns, and to those that fit the model's context beside a reply.

    The cap on a reply is `CAP_OVER_HUMAN` times the 99th percentile of the human replies, at least
    `RequestSettings.min_cap`, at most half the context.

    Raises:
        BadInput: nothing fits. ModelError: no replies can be told apart, but for an odd one.
    """
    tokenizer, context = chat_format.tokenizer, chat_format.context
    human = (d.messages[turn].content for d in dialogue_set.dialogues for turn in d.assistant_turns)
    usual = round(float(np.percentile([len(tokenizer.encode(reply)) for reply in human], 99)))
    cap = min(max(settings.min_cap, CAP_OVER_HUMAN * usual), context // 2)

    def fitting(dialogue: Dialogue) -> list[Dialogue]:
        """The dialogue up to each of its first turns, while it fits."""
        ends = (dialogue.before(turn + 1) for turn in dialogue.assistant_turns[: settings.max_turns])
        return list(takewhile(lambda cut: len(tokenizer.scored(cut).ids) <= context - cap, ends))

    cuts, faults = without_odd(dialogue_set.dialogues, fitting)
    dialogues = [fit[-1] for _, fit in cuts if fit]
    shortened = sum(len(fit) < len(d.assistant_turns[: settings.max_turns]) for d, fit in cuts)
    split, n = dialogue_set.split, len(dialogue_set)
    if not dialogues:
        raise BadInput(f"no dialogue of the {split} split fits the model's context of {context} tokens")
    notes = list(dialogue_set.notes)
    if shortened:
        notes.append(f"{split}: {shortened} of {n} dialogues were cut to what fits {context - cap} tokens")
    if faults:
        notes.append(f"{split}: {len(faults)} of {n} dialogues were left out: {faults[0]}")
    if len(dialogues) < n - len(faults):
        notes.append(
            f"{split}: {n - len(faults) - len(dialogues)} dialogues whose first turn does not fit were left out"
        )
    how = (settings.seeds, seed, settings.fit_dialogues, settings.fit_tokens)
    if beyond := chat_format.generation.only_transformers:
        notes.append(f"generation_config.json asks for {', '.join(beyond)}: transformers does it, llama.cpp does not")
    return Workload(tuple(dialogues), tokenizer, chat_format.generation, cap, tuple(notes), *how)


def mixture(own: int, other: int, share: float) -> tuple[int, int]:
    """How many of so many dialogues of two kinds there are, where ``share`` of all is of the other.

    Raises:
        BadInput: fewer of either than the halves of a final run's blocks, which would ask the same again.
    """
    count = min(own, int(other * (1 - share) / share))
    others = round(count * share / (1 - share))
    if min(count, others) < LEAST_OF_A_KIND:
        got = f"{own} of your own and {other} others leave {count} and {others}"
        hint = f"give more dialogues: {LEAST_OF_A_KIND} of each are the least in a part that judges"
        raise BadInput(f"too few dialogues for traffic with {share:.0%} of another kind", got=got, hint=hint)
    return count, others


def mixed_workload(own: Workload, other: Workload, share: float) -> Workload:
    """Dialogues of two kinds, as many as there are where ``share`` of all is of the other. Raises as `mixture`."""
    count, others = mixture(len(own.dialogues), len(other.dialogues), share)
    some = [replace(d, source="own") for d in own.dialogues[:count]]
    some += [replace(d, id=f"other {d.id}", source="other") for d in other.dialogues[:others]]
    cap, notes = max(own.cap, other.cap), tuple(dict.fromkeys((*own.notes, *other.notes)))
    return replace(own, dialogues=tuple(some), cap=cap, notes=notes, of_two_kinds=True).shuffled()


def prompts_of(dialogues: Sequence[Dialogue]) -> list[list[Dialogue]]:
    """Per dialogue of a workload, the prompt of each of its replies, in order."""
    return [[d.before(turn) for turn in d.assistant_turns] for d in dialogues]


def balanced_chunks(
    prompts: Sequence[Sequence[Dialogue]], replies: float, draw: random.Random, *, by_source: bool = False
) -> list[list[Dialogue]]:
    """Whole dialogues in groups of about ``replies`` replies, two dialogues or more; each group is like the whole.

    The order in which dialogues come says nothing: files are often sorted by source. Ranked by length and dealt out at
    random, one of each rank to a group, every group holds short and long ones in the same shares.

    by_source: each group holds equally many of the rarest source, one at least though the group is smaller or larger
        for it, and of the others as many as any other group, give or take one; an answer may cost a hundred times more
        there. What of the rarest is left over is left out.
    """
    total = sum(len(turns) for turns in prompts)
    count = max(1, min(len(prompts) // 2, round(total / max(1.0, replies))))
    ranked = sorted(prompts, key=lambda turns: sum(len(m.content) for m in turns[-1].messages))
    sources = [ranked]
    if by_source:
        names = sorted({turns[0].source for turns in ranked})
        rarest, *others = sorted(([t for t in ranked if t[0].source == name] for name in names), key=len)
        each = max(1, len(rarest) // count)
        count = len(rarest) // each
        some = sorted(draw.sample(range(len(rarest)), each * count))  # still by length
        sources = [[rarest[n] for n in some], *others]
    chunks: list[list[Dialogue]] = [[] for _ in range(count)]
    for own in sources:
        for start in range(0, len(own), count):
            rank = own[start : start + count]
            for chunk, turns in zip(draw.sample(chunks, len(rank)), rank, strict=True):
                chunk += turns
    return chunks


def workload_profile(workload: Workload, users: int, replies_per_hour: float | None = None) -> Profile:
    """How long prompts and replies are; how many ask at once and how often, which the user says."""
    tokenizer, dialogues = workload.tokenizer, workload.dialogues
    prompts = [[len(tokenizer.prompt_ids(prompt)) for prompt in turns] for turns in prompts_of(dialogues)]
    prompt_tokens = [tokens for turns in prompts for tokens in turns]
    reply_tokens = [len(tokenizer.encode(d.messages[turn].content)) for d in dialogues for turn in d.assistant_turns]
    return Profile(
        dialogues=len(dialogues),
        replies_per_dialogue=len(prompt_tokens) / len(dialogues),
        prompt_tokens=_middle_and_long(prompt_tokens),
        repeated=sum(sum(turns[:-1]) for turns in prompts) / sum(prompt_tokens),
        human_reply_tokens=_middle_and_long(reply_tokens),
        users=users,
        replies_per_hour=replies_per_hour,
    )


def _middle_and_long(counts: Sequence[int]) -> tuple[float, float]:
    middle, long = np.percentile(counts, [50, 95])
    return float(middle), float(long)
