"""Which turns are asked, what the gate asks for them, and chunks that are like the whole."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from halfwatt.core.errors import BadInput, ModelError
from halfwatt.core.settings import RequestSettings
from halfwatt.dialogues.dialogue import Dialogue, DialogueSet, Message
from halfwatt.evaluate.requests import (
    ChatFormat,
    Workload,
    balanced_chunks,
    make_workload,
    prompts_of,
    workload_profile,
)
from halfwatt.formats.artifact import Artifact
from halfwatt.models.chat_model import load
from halfwatt.models.sampling import Sampling
from tests.support import tiny_models as tiny


def dialogue(name: str, turns: int = 1) -> Dialogue:
    messages = tuple(Message(role, f"{name} {i}") for i in range(turns) for role in ("user", "assistant"))
    return Dialogue(name, messages)


def tune(*dialogues: Dialogue, skipped: tuple[str, ...] = ()) -> DialogueSet:
    return DialogueSet.of(dialogues, split="tune", licence="", skipped=skipped)


@pytest.fixture(scope="module")
def chat_format(tmp_path_factory: pytest.TempPathFactory) -> ChatFormat:
    return ChatFormat.of_model(load(tiny.folder(tmp_path_factory.mktemp("model"))))


def test_the_first_turns_are_asked_and_no_others(chat_format: ChatFormat) -> None:
    dialogues = tune(dialogue("a", turns=6), dialogue("b", turns=1))
    workload = make_workload(dialogues, chat_format, RequestSettings(max_turns=2, seeds=(7,)), seed=3)
    assert [d.messages for d in workload.dialogues] == [d.before(4).messages for d in dialogues.dialogues]
    assert (workload.notes, workload.seeds, workload.seed) == ((), (7,), 3)
    assert workload.tokenizer is chat_format.tokenizer


ODD = Dialogue("odd", (Message("user", "Hi"), Message("assistant", "<|im_start|>")))


def test_an_odd_dialogue_is_left_out_and_counted(chat_format: ChatFormat) -> None:
    workload = make_workload(tune(*(dialogue(f"d{n}") for n in range(9)), ODD), chat_format, RequestSettings())
    assert len(workload.dialogues) == 9
    [note] = workload.notes
    assert note.startswith("tune: 1 of 10 dialogues were left out: dialogue odd: its text holds '<|im_start|>'")


def test_more_than_odd_ones_are_a_fault_of_the_template(chat_format: ChatFormat) -> None:
    two = [replace(ODD, id=f"odd{n}") for n in range(2)]
    with pytest.raises(ModelError, match="dialogue odd0"):
        make_workload(tune(*(dialogue(f"d{n}") for n in range(9)), *two), chat_format, RequestSettings())


def test_a_reply_may_take_twice_what_people_write_between_the_least_and_half_the_context(
    chat_format: ChatFormat,
) -> None:
    dialogues = tune(dialogue("a"), dialogue("b"))
    reply = len(chat_format.tokenizer.encode(dialogues.dialogues[0].messages[1].content))
    for least, context, cap in ((1, 10_000, 2 * reply), (300, 10_000, 300), (300, 400, 200)):
        workload = make_workload(dialogues, replace(chat_format, context=context), RequestSettings(min_cap=least))
        assert workload.cap == workload.greedy.max_new_tokens == cap
        assert workload.brief().greedy.max_new_tokens == min(64, cap)


def test_what_does_not_fit_the_context_is_cut_or_left_out_and_said(chat_format: ChatFormat) -> None:
    short, long = dialogue("short", turns=1), dialogue("long", turns=4)
    huge = Dialogue("huge", (Message("user", "light " * 300), Message("assistant", "ok")))
    fits = len(chat_format.tokenizer.scored(long.before(4)).ids)  # two of its four turns
    small, settings = replace(chat_format, context=fits + 50), RequestSettings(min_cap=50)
    workload = make_workload(tune(short, long, huge, skipped=("chats.jsonl:3: not JSON",)), small, settings)
    assert [d.id for d in workload.dialogues] == ["short", "long"]
    assert workload.cap == 50
    assert [len(d.assistant_turns) for d in workload.dialogues] == [1, 2]
    assert workload.notes == (
        "1 faulty row was left out: chats.jsonl:3: not JSON",
        f"tune: 2 of 3 dialogues were cut to what fits {fits} tokens",
        "tune: 1 dialogues whose first turn does not fit were left out",
    )
    with pytest.raises(BadInput, match="no dialogue of the tune split fits"):
        make_workload(tune(huge), small, settings)


def test_the_gate_asks_every_turn_greedily_and_by_each_seed() -> None:
    own = Sampling(temperature=0.7, top_k=40, repetition_penalty=1.1, max_new_tokens=999)
    workload = Workload((dialogue("a", turns=2), dialogue("b", turns=1)), None, own, 12, (), (1, 2))  # type: ignore[arg-type]
    first, second = workload.requests()
    assert [(r.turn, r.seed) for r in first] == [(1, None), (3, None), (1, 1), (3, 1), (1, 2), (3, 2)]
    assert [(r.turn, r.seed) for r in second] == [(1, None), (1, 1), (1, 2)]
    assert {r.sampling for r in first if r.seed is None} == {Sampling(repetition_penalty=1.1, max_new_tokens=12)}
    sampled = [r.sampling for rows in (first, second) for r in rows if r.seed is not None]
    assert {replace(s, seed=0) for s in sampled} == {replace(own, max_new_tokens=12)}
    assert len({s.seed for s in sampled}) == len(sampled), "no two replies of a run share their random numbers"
    assert first[1].prompt == first[1].dialogue.before(3)


def test_a_model_that_does_not_sample_is_asked_greedily_only() -> None:
    workload = Workload((dialogue("a"), dialogue("b")), None, Sampling(temperature=0.0), 12, (), (1, 2))  # type: ignore[arg-type]
    assert {r.seed for rows in workload.requests() for r in rows} == {None}


def test_prompts_are_each_reply_of_a_dialogue_in_order() -> None:
    (first,) = prompts_of([dialogue("x", turns=2)])
    assert [len(p.messages) for p in first] == [1, 3]
    assert all(p.messages[-1].role == "user" for p in first)


def test_a_half_is_like_the_whole_in_whatever_order_the_dialogues_come() -> None:
    dialogues = [dialogue(f"{'long' if i < 40 else 'short'} {i}", turns=4 if i < 40 else 1) for i in range(120)]
    chunks = balanced_chunks(prompts_of(dialogues), 9.0, random.Random(0))
    assert len({id(p) for chunk in chunks for p in chunk}) == sum(map(len, chunks)) == 40 * 4 + 80
    longs = [len({p.id for p in chunk if p.id.startswith("long")}) for chunk in chunks]
    assert min(longs) >= 1
    assert max(longs) <= 3
    assert chunks != balanced_chunks(prompts_of(dialogues), 9.0, random.Random(1))
    assert chunks == balanced_chunks(prompts_of(dialogues), 9.0, random.Random(0))


def test_the_profile_counts_what_is_asked_and_what_people_reply(chat_format: ChatFormat) -> None:
    dialogues = (dialogue("a", turns=2), dialogue("b", turns=1))
    profile = workload_profile(make_workload(tune(*dialogues), chat_format, RequestSettings()), 3, 60.0)
    tokenizer = chat_format.tokenizer
    lengths = [[len(tokenizer.prompt_ids(p)) for p in prompts] for prompts in prompts_of(dialogues)]
    assert (profile.dialogues, profile.replies_per_dialogue) == (2, 1.5)
    assert (profile.users, profile.replies_per_hour) == (3, 60.0)
    assert profile.prompt_tokens[0] == sorted([*lengths[0], *lengths[1]])[1]
    assert profile.repeated == pytest.approx(lengths[0][0] / sum(map(sum, lengths)))
    replies = sorted(len(tokenizer.encode(d.messages[t].content)) for d in dialogues for t in d.assistant_turns)
    assert profile.human_reply_tokens[0] == replies[1]


def test_an_artifact_without_a_context_length_cannot_be_asked(tmp_path: Path) -> None:
    artifact = Artifact(tmp_path, "llamacpp", "f16", 1, 1, 1, "", ())
    with pytest.raises(ModelError, match="tells no context length"):
        ChatFormat.of_artifact(artifact)


def of_kinds(own: int, other: int) -> list[list[Dialogue]]:
    """Prompts of as many dialogues, of different lengths."""
    kinds = [("own", n) for n in range(own)] + [("other", n) for n in range(other)]
    return [[Dialogue(f"{kind}{n}", (Message("user", "x" * (1 + n)),), kind)] for kind, n in kinds]


@pytest.mark.parametrize(("own", "other", "replies", "chunks", "each"), [(120, 30, 5, 30, 1), (120, 30, 10, 15, 2)])
def test_each_chunk_has_both_kinds_in_their_shares(own: int, other: int, replies: int, chunks: int, each: int) -> None:
    """An answer to the other kind may cost a hundred times more: one more in a chunk would say something else."""
    dealt = balanced_chunks(of_kinds(own, other), replies, random.Random(0), by_source=True)
    counts = [[sum(d.source == kind for d in chunk) for kind in ("own", "other")] for chunk in dealt]
    assert counts == [[own // chunks, each]] * chunks


@pytest.mark.parametrize("other", range(14, 60))
def test_no_block_of_the_least_number_has_to_ask_again(other: int) -> None:
    """Fourteen halves of other prompts each, whatever is left over."""
    prompts = of_kinds(4 * other, other)
    dealt = balanced_chunks(prompts, len(prompts) / 14, random.Random(0), by_source=True)
    assert len(dealt) >= 14
    assert len({sum(d.source == "other" for d in chunk) for chunk in dealt}) == 1
    asked = [d.id for chunk in dealt for d in chunk]
    assert len(set(asked)) == len(asked) >= 0.9 * len(prompts)
