"""``report.html``: one page that needs nothing else. No script, no request, light, dark and print.

Text from outside is escaped by jinja2 (``page.html.j2``, ``page.css``); the drawings (`figures`) are the only markup
that is let through.
"""

from __future__ import annotations

import re
from difflib import SequenceMatcher

from halfwatt.results.report.figures import arm_labels, figures
from halfwatt.results.report.templates import render
from halfwatt.results.result import Result
from halfwatt.results.tables import duties, duty_cycle

Pieces = list[tuple[str, bool]]


def render_html(result: Result) -> str:
    """The page as text."""
    replies = [w for w in result.raw.windows if w.phase == "reply"]
    return render(
        "page.html.j2",
        result,
        plots=figures(result),
        labels=arm_labels(result),
        duties=[f"{rate:,g}" for rate in duties(result)],
        duty=duty_cycle(result),
        blocks=len({w.block for w in replies}),
        replies=sum(w.replies for w in replies if not w.discarded),
        disturbed=[w for w in result.raw.windows if w.taints or w.discarded],
        differences=word_differences,
    )


def word_differences(a: str, b: str) -> tuple[Pieces, Pieces]:
    """Two replies in pieces that add up to them; True where the other has other words."""
    words: list[list[str]] = [re.findall(r"\s+|\S+", text) for text in (a, b)]
    pieces: tuple[Pieces, Pieces] = ([], [])
    for kind, *spans in SequenceMatcher(None, words[0], words[1], autojunk=False).get_opcodes():
        for own, text, (start, end) in zip(pieces, words, (spans[:2], spans[2:]), strict=True):
            if start < end:
                own.append(("".join(text[start:end]), kind != "equal"))
    return pieces
