"""Templates whose prompts open a <think> that the rendered dialogue does not show: the R1 distils, Qwen3 Thinking."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from halfwatt.compress.base import StepContext
from halfwatt.compress.distil import Distil
from halfwatt.core.errors import ModelError
from halfwatt.dialogues.dialogue import Dialogue, Message
from halfwatt.evaluate.replies import special_ids
from halfwatt.models.chat_model import load
from halfwatt.models.thinking import answer_of, opening
from halfwatt.models.tokenizer import ChatTokenizer
from tests.support import tiny_models as tiny
from tests.support.llamacpp_parity import parity_in_llamacpp

R1 = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}{% elif m.role == 'user' %}"
    "<|im_start|>user:{{ m.content }}{% else %}{% set c = m.content %}{% if '</think>' in c %}"
    "{% set c = c.split('</think>')[-1] %}{% endif %}<|im_start|>assistant:{{ c }}<|im_end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant:<think>\n{% endif %}"
)
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>"
    "\n\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
CLOSED = R1.replace("assistant:<think>\n{% endif", "assistant:<think>\n\n</think>\n\n{% endif")
HYBRID = THINKING.replace("assistant\n<think>\n{% endif", "assistant\n{% endif")
BLANK = f"\n\n{R1}\n\n  \n"  # line breaks that Jinja keeps, but for the last
EMPTY = "<think>\n\n</think>\n\n"
PROMPTS = {
    R1: "",
    THINKING: EMPTY,
    CLOSED: "",
    HYBRID: EMPTY,
    BLANK: "",
}  # what they end with for who learns from people
TEMPLATES = pytest.mark.parametrize("template", PROMPTS, ids=["r1", "thinking", "closed", "hybrid", "blank"])


def tokenizer(folder: Path, template: str) -> ChatTokenizer:
    tiny.tokenizer(template=template).save_pretrained(folder)
    return ChatTokenizer.load(folder)


def replies(chat: ChatTokenizer, dialogue: Dialogue) -> list[str]:
    scored = chat.scored(dialogue)
    text = chat.hf.decode([i if mine else tiny.PAD for i, mine in zip(scored.ids, scored.reply, strict=True)])
    return [part for part in text.split("<|pad|>") if part]


@TEMPLATES
def test_replies_are_told_apart_without_what_was_thought(template: str, tmp_path: Path) -> None:
    chat, talk = tokenizer(tmp_path, template), tiny.dialogues()[2]
    said = ["Sure! At what time?<|im_end|>", "Your table is booked.<|im_end|>", "You're welcome.<|im_end|>"]
    assert replies(chat, talk) == said
    thought = Message("assistant", "<think>\nPolite people.\n</think>\n\nYou're welcome.")
    if "loop.last" in template:  # which shows it: then it is part of what the model wrote
        thought_aloud = (
            "Polite people.\n</think>\n\n" if template == THINKING else "<think>\nPolite people.\n</think>\n\n"
        )
        said[-1] = thought_aloud + said[-1]
        chat = tokenizer(tmp_path, template.replace(f"{EMPTY}{{% endif", "{% endif"))
    assert replies(chat, replace(talk, messages=(*talk.messages[:-1], thought))) == said


def test_an_answer_may_stand_in_its_own_thought(tmp_path: Path) -> None:
    """It is looked for as a whole first: else it would be found too early, and no stop token comes after it."""
    thought = "<think>\nSo: It is on.\n</think>\n\nIt is on."
    talk = Dialogue("d", (Message("user", "Is it?"), Message("assistant", thought)))
    assert replies(tokenizer(tmp_path, tiny.CHATML), talk) == [f"{thought}<|im_end|>"]


def test_something_else_between_prompt_and_reply_is_no_thinking(tmp_path: Path) -> None:
    noted = R1.replace("<|im_start|>assistant:{{ c }}", "<|im_start|>assistant: (after a while) {{ c }}")
    with pytest.raises(ModelError, match="do not begin those of the whole"):
        tokenizer(tmp_path, noted).scored(tiny.dialogues()[0])


@TEMPLATES
def test_who_learns_from_people_is_asked_without_it(template: str, tmp_path: Path) -> None:
    """The same text in every dialogue, and prompts that end where people's replies begin."""
    chat = tokenizer(tmp_path, template)
    plain = chat.answering_at_once()
    assert not plain.opens_thinking
    assert plain.answering_at_once() is plain
    for talk in tiny.dialogues():
        assert plain.render(talk, prompt=False) == chat.render(talk, prompt=False)
        asked = talk.before(talk.assistant_turns[-1])
        theirs, ours = chat.render(asked, prompt=True), plain.render(asked, prompt=True)
        assert ours == theirs.partition("<think>")[0] + PROMPTS[template]
        assert chat.answer_prompt_ids(asked) == chat.encode(theirs + ("</think>\n\n" if chat.opens_thinking else ""))
        tokens = plain.scored(talk)
        first = max(i for i, mine in enumerate(tokens.reply) if mine and not tokens.reply[i - 1])
        assert list(tokens.ids[:first]) == plain.prompt_ids(asked)


def test_a_template_that_says_something_else_then_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the line break that Jinja leaves out at the end were kept."""
    chat = tokenizer(tmp_path, BLANK)
    monkeypatch.setattr("halfwatt.models.tokenizer._LAST_LINE_BREAK", re.compile("(?!)"))
    with pytest.raises(ModelError, match="cannot be told to open no <think>"):
        chat.answering_at_once()


@TEMPLATES
def test_tags_that_are_special_tokens_are_no_fault_of_a_reply(template: str, tmp_path: Path) -> None:
    """Some models' are; what is decoded without special tokens would have no end of the thinking, or no beginning."""
    plain = tiny.tokenizer(template=template)
    plain.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    plain.save_pretrained(tmp_path)
    chat = ChatTokenizer.load(tmp_path)
    ids = chat.encode("<think>Is it?</think>It is.<|im_end|>")
    assert chat.decode(ids) == "<think>Is it?</think>It is."
    assert answer_of(chat.decode(ids)) == "It is."
    assert not special_ids(chat).intersection(ids[:-1])
    thought = Message("assistant", "<think>\nPolite people.\n</think>\n\nYou're welcome.")
    talk = tiny.dialogues()[2]
    assert any(chat.scored(replace(talk, messages=(*talk.messages[:-1], thought))).end)


@TEMPLATES
def test_it_is_exported_and_taught(template: str, tmp_path: Path) -> None:
    model = load(tiny.folder(tmp_path, "qwen2", template=template))
    record = parity_in_llamacpp(model, tmp_path / "out")
    assert record.problems == ()
    assert record.kl_mean < 1e-4
    taught = Distil("labels", epochs=0.5).apply(model, StepContext(dialogues=tiny.dialogues()))
    assert not taught.tokenizer.opens_thinking
    assert parity_in_llamacpp(taught, tmp_path / "taught").problems == ()


@pytest.mark.parametrize(
    ("text", "opened", "answer"),
    [
        ("Yes.", False, "Yes."),
        ("<think>\n\n</think>\n\nYes.", False, "Yes."),
        ("Is it? It is.\n</think>\n\nYes.", True, "Yes."),
        ("Is it? It is, or", True, ""),
        ("<think>Is it?", False, ""),
        ("Write <think> before you answer.", False, "Write <think> before you answer."),
        ("So. <think>Is it?</think> No. <think>Or?</think> Yes.", False, "Yes."),
    ],
)
def test_people_see_what_comes_after_it(text: str, opened: bool, answer: str) -> None:
    assert answer_of(text, opened=opened) == answer


def test_an_opening_stands_at_the_end() -> None:
    assert opening("<think>\n") == "<think>\n"
    assert opening("so <think>\n\n</think>\n\n") == "<think>\n\n</think>\n\n"
    assert opening("<think> hm") == opening("") == opening("assistant:") == ""
