"""Facts that a reply has to carry: values that stand in the dialogue before it and that the human reply repeats (G6).

A value is a token with digits (a number, time, date, code), an e-mail address, a placeholder in double braces, or a
name: a word that these dialogues capitalise in most places where no sentence begins (truecasing; Lita et al., 2003).
In one form:

    1,000 = 1000    5.50 = 5.5    7 pm = 7:00 pm = 7pm    3rd = 3    full-width = plain digits    Seattle = seattle

Digits and names with capitals are found in any language, with or without spaces. Not seen: numbers in words (seven),
names in scripts without capitals (Chinese, Arabic), and whether a value is said of the right thing. German nouns count
as names. Pure.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

from halfwatt.dialogues.dialogue import Dialogue
from halfwatt.evaluate.records import Facts

_MARKED = re.compile(r"\{\{.*?\}\}|[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_LIST_MARK = re.compile(r"^\s*\d{1,2}[.)](?=\s)", re.MULTILINE)
_THOUSANDS = re.compile(r"(?<=\d)[,'\u2019](?=\d{3}(?!\d))")
_DAYTIME = re.compile(r"(?<=\d)\s?([ap])\.?m\b\.?", re.IGNORECASE)
_NUMBER = re.compile(r"[A-Za-z0-9]*\d[A-Za-z0-9]*(?:[-.:/_][A-Za-z0-9]+)*")
_SPARE = re.compile(r"(?<=\d):00(?=[ap]m$)|(?<=\d)(?:st|nd|rd|th)$|(?<=\.\d)0+$|\.0+$")
_WORD = re.compile(r"[^\W\d_]+(?:[-'\u2019][^\W\d_]+)*")
_INSIDE = re.compile(r"[^\W_][,;:]?[ \u00a0]+[(\"\u201c\u00ab]?$")  # what a word that begins no sentence follows


def facts_of(dialogues: Sequence[Dialogue]) -> tuple[Facts, ...]:
    """Of every reply that is asked, in order: the values to carry, and the numbers that stand before it."""
    names = _names(message.content for dialogue in dialogues for message in dialogue.messages)
    return tuple(_facts(dialogue, turn, names) for dialogue in dialogues for turn in dialogue.assistant_turns)


def carried(facts: Facts, reply: str) -> int:
    """How many of the values stand in a reply."""
    return len({*facts.values} & (numbers(reply) | _marked(reply) | _words(reply)))


def numbers(text: str) -> set[str]:
    """Tokens with digits, in one form; marks of numbered lists are left out."""
    plain = _LIST_MARK.sub(" ", _MARKED.sub(" ", unicodedata.normalize("NFKC", text)))
    plain = _DAYTIME.sub(r"\1m", _THOUSANDS.sub("", plain))
    return {_SPARE.sub("", token.casefold()) for token in _NUMBER.findall(plain)}


def _facts(dialogue: Dialogue, turn: int, names: frozenset[str]) -> Facts:
    context = "\n".join(message.content for message in dialogue.before(turn).messages)
    human, before = dialogue.messages[turn].content, numbers(context)
    values = (before & numbers(human)) | (_marked(context) & _marked(human)) | (_words(context) & _words(human) & names)
    return Facts(dialogue.id, turn, tuple(sorted(values)), tuple(sorted(before)))


def _marked(text: str) -> set[str]:
    """Placeholders and e-mail addresses."""
    return {mark.casefold() for mark in _MARKED.findall(text)}


def _words(text: str) -> set[str]:
    return {word.casefold() for word in _WORD.findall(_MARKED.sub(" ", text))}


def _names(texts: Iterable[str]) -> frozenset[str]:
    """Words of three letters or more that are capitalised in most of the places where no sentence begins."""
    places, capitals = Counter[str](), Counter[str]()
    for text in texts:
        plain = _MARKED.sub(" ", text)
        for word in _WORD.finditer(plain):
            if _INSIDE.search(plain, max(0, word.start() - 4), word.start()):
                places[word[0].casefold()] += 1
                capitals[word[0].casefold()] += word[0][0].isupper()
    return frozenset(word for word, n in places.items() if len(word.split("'")[0]) > 2 and 2 * capitals[word] > n)
