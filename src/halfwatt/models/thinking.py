"""Reasoning between <think> and </think>, which some models write before they answer; people see what comes after."""

from __future__ import annotations

import re

OPENING, CLOSING = "<think>", "</think>"
_OPENED = re.compile(r"<think>\s*(</think>\s*)?$")  # what a prompt may end with
_EMPTY = re.compile(r"\s*(<think>\s*</think>)?\s*")


def answer_of(text: str, *, opened: bool = False) -> str:
    """What a reply says when it has thought; nothing, where it never came to an end of it. opened: by its prompt."""
    _, closed, answer = text.rpartition(CLOSING)
    if closed:
        return answer.lstrip()
    return "" if opened or text.lstrip().startswith(OPENING) else text


def opening(prompt: str) -> str:
    """What a prompt ends with where it lets the model think, or says that it has; "" elsewhere."""
    end = _OPENED.search(prompt)
    return end.group() if end else ""


def left_open(prompt: str) -> str:
    """`opening`, where what is opened is not closed again."""
    opened = opening(prompt)
    return "" if CLOSING in opened else opened


def reply_begins(text: str, prompt: str, answer: str) -> int | None:
    """Where an answer stands in a dialogue's ``text`` whose template shows there that nothing was thought, or does not
    show the thinking that the prompt opens; None = this is no such template."""
    before = prompt.removesuffix(opening(prompt))
    shown = _EMPTY.match(text, len(before)) if text.startswith(before) else None
    if shown is None or not text.startswith(answer, shown.end()):
        return None
    return shown.end() if before != prompt or shown[1] else None
