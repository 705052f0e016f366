"""One row of a dialogue file as a `Dialogue`. docs/dialogues.md lists every form and key, and what is done with it.

What a key means to the tools that write it is honoured, or the row is refused by that key's name: what vanishes
without a word makes a model learn, and be judged by, something else than its dialogues say. A key that is null, empty
or NaN is absent, as after two sources were joined. Other keys say nothing about what is said, and are left alone.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from halfwatt.dialogues.dialogue import Dialogue, Message, Role

TURNS = ("messages", "conversations", "conversation")
_ROLES: dict[str, Role] = {
    "user": "user",
    "assistant": "assistant",
    "system": "system",
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "developer": "system",
}
_SYSTEM = ("system", "system_prompt")  # columns
_OF_ROWS = {
    "tools": "the tools that a model may call",
    "functions": "the functions that a model may call",
    "documents": "texts that a template may show",
    "chat_template_kwargs": "settings of the template",
    "images": "pictures",
    "image": "a picture",
    "video": "a film",
    "videos": "films",
    "audio": "sound",
    "audios": "sound",
    "reasoning_content": "reasoning before the reply",
    "reasoning": "reasoning before the reply",
    "thinking": "reasoning before the reply",
    "label": "whether the reply is wanted",
    "kto_tag": "whether the reply is wanted",
}
_OF_TURNS = {
    "tool_calls": "calls of tools",
    "tools": "the tools that a model may call",
    "functions": "the functions that a model may call",
    "function_calls": "calls of functions",
    "images": "pictures",
    "image": "a picture",
    "audio": "sound",
    "audios": "sound",
    "video": "a film",
    "videos": "films",
    "function_call": "a call of a function",
    "tool_call_id": "the answer to a call",
    "name": "who speaks",
    "reasoning_content": "reasoning before the reply",
    "reasoning": "reasoning before the reply",
    "thinking": "reasoning before the reply",
    "prefix": "a reply that is only begun",
    "train_detail": "which parts are learned",
}
"""Keys with a meaning that a template or a loss would have to honour, and what they hold."""


class Fault(Exception):
    """What is wrong with one row, and what to do."""


def dialogue_of(row: Any, *, name: str, ignore: Collection[str] = ()) -> Dialogue:
    """The dialogue that a row holds.

    Args:
        name: its id where the row has none.
        ignore: keys to leave alone, whatever they mean.

    Raises:
        Fault: the row is no sound dialogue, or has a key that means something which is not honoured.
    """
    if isinstance(row, Fault):
        raise row
    if not isinstance(row, dict):
        raise Fault(f"a row must be a JSON object, not {kind(row)}")
    fields = {key: value for key, value in row.items() if not _absent(value) and key not in ignore}
    _refuse(fields, _OF_ROWS, "", ignore)
    messages = tuple(_with_system(fields, tuple(_messages(fields, ignore))))
    _check_order(messages)
    own, source = fields.get("id", name), fields.get("source", "")
    own = _text(str(own), "id") if isinstance(own, str | int) else name
    return Dialogue(own, messages, _text(source, "source") if isinstance(source, str) and source.strip() else "")


def _absent(value: Any) -> bool:
    """False and 0 are there."""
    return value is None or (isinstance(value, str | list | dict) and not value) or value != value


def _refuse(fields: Mapping[str, Any], meanings: Mapping[str, str], where: str, ignore: Collection[str]) -> None:
    for key in fields:
        verdict = isinstance(fields[key], bool) or "completion" in fields  # else a label tells kinds apart
        if key in meanings and key not in ignore and (key != "label" or verdict):
            raise Fault(f"{where}{key} ({meanings[key]}) is not read; leave it out, or type --ignore {key}")


def _messages(fields: Mapping[str, Any], ignore: Collection[str]) -> Iterator[Message]:
    """By the first form whose keys are there."""
    lists = [key for key in TURNS if key in fields]
    if len(lists) > 1:
        raise Fault(f"both {lists[0]} and {lists[1]}; keep the one that holds the dialogue, or --ignore the other")
    if lists:
        better = fields.get("chosen")  # LLaMA-Factory's, a turn of its own
        yield from _turns(fields[lists[0]], ignore)
        yield from _turns([better], ignore) if isinstance(better, dict) else ()
    elif "instruction" in fields:
        yield from _alpaca(fields)
    elif "chosen" in fields or ("prompt" in fields and "completion" in fields):
        yield from _prompt_and_reply(fields, "chosen" if "chosen" in fields else "completion", ignore)
    else:
        keys = ", ".join(key.encode("unicode_escape").decode() for key in list(fields)[:5]) or "nothing"
        forms = "messages, conversations, instruction, chosen, or prompt and completion"
        raise Fault(f"no {forms}, but {keys}; bring it into one of these forms")


def _turns(turns: Any, ignore: Collection[str], role: Role | None = None) -> Iterator[Message]:
    """Of a list of objects; of a text, where ``role`` says who speaks it."""
    if role is not None and isinstance(turns, str):
        yield Message(role, _text(turns, role))
        return
    if not isinstance(turns, list):
        raise Fault(f"the list of messages is {kind(turns)}; give at least two")
    for i, turn in enumerate(turns, start=1):
        if not isinstance(turn, dict):
            raise Fault(f"message {i} must be an object with role and content, not {kind(turn)}")
        fields = {key: value for key, value in turn.items() if not _absent(value)}
        who, what = ("from", "value") if "from" in fields and "role" not in fields else ("role", "content")
        speaker = fields.get(who)
        if not isinstance(speaker, str) or speaker not in _ROLES:
            raise Fault(f"message {i}: unknown {who} {json.dumps(speaker)[:40]}; use {', '.join(_ROLES)}")
        _refuse(fields, _OF_TURNS, f"message {i}: ", ignore)
        counts = _ROLES[speaker] != "assistant" or _counts(fields, i, ignore)
        yield Message(_ROLES[speaker], _text(turn.get(what), f"message {i}: {what}"), counts)


def _counts(turn: Mapping[str, Any], i: int, ignore: Collection[str]) -> bool:
    """Is a message's reply to be learned and judged? OpenAI's ``weight`` says so, and Axolotl's
    ``train`` or ``training``."""
    for key in ("weight", "train", "training"):
        if key in turn and key not in ignore:
            if turn[key] not in (0, 1):
                raise Fault(f"message {i}: {key} is {json.dumps(turn[key])[:40]}; give 0 or 1, or type --ignore {key}")
            if not turn[key]:
                return False
    return True


def _alpaca(fields: Mapping[str, Any]) -> Iterator[Message]:
    history = fields.get("history", [])
    if not isinstance(history, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in history):
        raise Fault("history is no list of pairs of a question and its reply; bring it into that form")
    for asked, answer in history:
        yield Message("user", _text(asked, "history"))
        yield Message("assistant", _text(answer, "history"))
    more = "\n\n" + _text(fields["input"], "input") if "input" in fields else ""
    yield Message("user", _text(fields["instruction"], "instruction") + more)
    if (reply := next((key for key in ("output", "chosen") if key in fields), None)) is None:
        raise Fault("no output beside the instruction; name the reply so")
    yield Message("assistant", _text(fields[reply], reply))


def _prompt_and_reply(fields: Mapping[str, Any], reply: str, ignore: Collection[str]) -> Iterator[Message]:
    """As TRL has them: both texts, or both lists of messages; ``chosen`` may hold the prompt itself."""
    prompt = list(_turns(fields["prompt"], ignore, "user")) if "prompt" in fields else []
    if not prompt and isinstance(fields[reply], str):
        raise Fault(f"{reply} is a text, and its prompt is not there; give both, or a list of messages")
    said = list(_turns(fields[reply], ignore, "assistant"))
    if reply == "chosen" and [(m.role, m.content) for m in said[: len(prompt)]] == [
        (m.role, m.content) for m in prompt
    ]:
        prompt = []
    yield from (*prompt, *said)


def _with_system(fields: Mapping[str, Any], messages: Sequence[Message]) -> Iterator[Message]:
    """A system text in a column of its own comes first."""
    if columns := [key for key in _SYSTEM if key in fields]:
        if len(columns) > 1 or any(m.role == "system" for m in messages):
            raise Fault(f"two system texts; keep one, or --ignore {columns[-1]}")
        yield Message("system", _text(fields[columns[0]], columns[0]))
    yield from messages


def _text(value: Any, what: str) -> str:
    if isinstance(value, list) and all(isinstance(p, dict) and p.get("type") == "text" for p in value):
        parts = [part.get("text") for part in value]
        value = "".join(parts) if all(isinstance(part, str) for part in parts) else value
    if isinstance(value, list):
        raise Fault(f"{what} is a list of parts that are not all text; give its text")
    if not isinstance(value, str):
        raise Fault(f"{what} is {kind(value)}; give a string")
    if not value.strip():
        raise Fault(f"{what} is empty; remove the dialogue")
    if "\0" in value:
        raise Fault(f"{what} holds a NUL character; remove it")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Fault(f"{what} holds half of a surrogate pair; write the whole character") from None
    return value


def _check_order(messages: Sequence[Message]) -> None:
    roles = [m.role for m in messages]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if "assistant" not in turns:
        raise Fault("no assistant turn; remove the dialogue")
    if turns[0] == "assistant":
        raise Fault("the assistant speaks first; begin with a user turn")
    for at, (before, role) in enumerate(pairwise(roles), start=2):
        if role == "system":
            raise Fault(f"message {at}: a system message after the first; put it first or remove it")
        if role == before:
            raise Fault(f"message {at}: two {role} turns in a row; join them or add the missing turn")
    if turns[-1] != "assistant":
        raise Fault("the last message is the user's; add the reply or remove the message")
    if not any(m.role == "assistant" and m.counts for m in messages):
        raise Fault("no assistant turn counts, by their weight or train; remove the dialogue")


def kind(value: Any) -> str:
    """What a JSON value is, in words."""
    names = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list"}
    return names.get(type(value), "an object")
