"""Conversations with the demo model, for docs/demo_transcripts.md.

.venv/bin/python -m benchmarks.transcripts > docs/demo_transcripts.md
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from halfwatt import demo
from halfwatt.core.settings import Access
from halfwatt.dialogues.dialogue import Dialogue, Message
from halfwatt.models.sampling import Sampling
from halfwatt.runtimes.base import Session
from halfwatt.runtimes.llamacpp import LlamaCpp
from halfwatt.runtimes.servable import servable

EACH, TURNS = 3, 4
HOW = """Three of each source, the first of the tune split with two or more exchanges: not picked. The user's turns
are those of the dialogue; the assistant's are the model's own, greedy, each given what the model itself said before.
Customer service has single questions only, so there three questions make one conversation. Good and bad replies are as
they came. Made by `python -m benchmarks.transcripts`."""
SOURCES = {"home": "Smart home", "service": "Task dialogues", "support": "Customer service", "chitchat": "Chit-chat"}


def main() -> None:
    """Print the page."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print("# Twelve conversations with the demo model\n")
    print(HOW + "\n")
    with TemporaryDirectory() as cache:
        spec = servable("demo", Access(), Path(cache), "llamacpp")
        with LlamaCpp().open(spec.artifact, spec.at) as session:
            for source, title in SOURCES.items():
                for number, questions in enumerate(_questions(source), start=1):
                    print(f"## {title} {number}\n")
                    _converse(session, questions)


def _questions(source: str) -> list[list[str]]:
    """The user's side of three conversations."""
    dialogues = [d for d in demo.dialogues("tune").dialogues if d.source == source]
    users = [[m.content for m in d.messages if m.role == "user"] for d in dialogues]
    longer = [turns[:TURNS] for turns in users if len(turns) > 1]
    singles = [turns[0] for turns in users]
    return longer[:EACH] or [singles[i * EACH : (i + 1) * EACH] for i in range(EACH)]


def _converse(session: Session, questions: list[str]) -> None:
    messages: list[Message] = []
    for text in questions:
        messages.append(Message("user", text))
        reply = session.reply([Dialogue("transcript", tuple(messages))], Sampling(max_new_tokens=256))[0]
        messages.append(Message("assistant", reply.text))
        print(f"**user:** {text}  \n**assistant:** {reply.text}\n")


if __name__ == "__main__":
    main()
