"""What tells best that a prompt is of a kind that a student was not taught: a cascade decides by it (docs/cascade.md).

    .venv/bin/python -m benchmarks.routing STUDENT --dialogues FILE --outside NAME=FILE [...] [--seed 0] [--count 150]

STUDENT is an artifact's folder, FILE the dialogues that it was taught on, split as `optimize` splits them: its training
split is counted, prompts are drawn from its tune split and from each file of others. Statistics that are asked:

    words       nats a byte of all that the person has said, by a bigram of the words of the training split: ours
    last words  the same of the last message alone, and of the one that surprises most
    unigrams    the same by single words
    student     nats a byte that the student itself gives the last message (it was taught replies, not questions)
    certainty   mean -log p of the first 12 tokens of the student's own reply, and their mean entropy

Prints how often a prompt of each other kind surprises more than one of the own (AUC), and the share of it that is
caught where 3 % of the user's own is sent away. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from scipy.special import log_softmax
from scipy.stats import rankdata

from benchmarks.ladder import markdown, say
from halfwatt.api.inputs import sizes
from halfwatt.dialogues.dialogue import Dialogue
from halfwatt.dialogues.readers import read_dialogues
from halfwatt.dialogues.splits import split_set
from halfwatt.formats.artifact import read_artifact
from halfwatt.models.bigram_model import BigramModel, surprisal, words_said
from halfwatt.models.tokenizer import ChatTokenizer
from halfwatt.runtimes.base import OperatingPoint
from halfwatt.runtimes.llamacpp import LlamaCpp
from halfwatt.runtimes.llamacpp_session import LlamaCppSession

TURNS, FIRST, SENT_AWAY = 4, 12, 0.03  # prompts of a dialogue, tokens of a reply, share of the user's own
LONGEST = 900  # tokens of a prompt that is asked

Statistic = Callable[[Dialogue], float]


def by_words(tokenizer: ChatTokenizer, train: Sequence[Dialogue]) -> dict[str, Statistic]:
    """Statistics that need no pass."""
    texts = [tokenizer.encode(text) for dialogue in train for text in words_said(dialogue)]
    model = BigramModel.counted(texts, tokenizer.vocab_size)
    single = Counter(token for text in texts for token in text)
    kinds, total = len(single), single.total()

    def alone(token: int) -> float:
        return math.log((single[token] + kinds / tokenizer.vocab_size) / (total + kinds))

    def per_byte(text: str) -> float:
        return model.nats(tokenizer.encode(text)) / (1 + len(text.encode()))

    def unigrams(dialogue: Dialogue) -> float:
        said = words_said(dialogue)
        nats = -sum(alone(token) for text in said for token in tokenizer.encode(text))
        return nats / sum(1 + len(text.encode()) for text in said)

    return {
        "words": lambda d: surprisal(model, tokenizer.encode, d),
        "last words": lambda d: per_byte(d.messages[-1].content.strip()),
        "most surprising words": lambda d: max(map(per_byte, words_said(d))),
        "unigrams": unigrams,
    }


def by_student(session: LlamaCppSession) -> dict[str, Statistic]:
    """Statistics of the student's own passes."""
    tokenizer = session.tokenizer

    def words(dialogue: Dialogue) -> float:
        text, said = tokenizer.render(dialogue, prompt=True), dialogue.messages[-1].content.strip()
        at, encoding = text.rfind(said), tokenizer.backend.encode(text, add_special_tokens=False)
        own = [i for i, (a, b) in enumerate(encoding.offsets) if i and b > at and a < at + len(said)]
        log_p = log_softmax(session.logits_after(encoding.ids, [i - 1 for i in own]).astype(np.float64), axis=1)
        nats = -sum(log_p[row, encoding.ids[i]] for row, i in enumerate(own))
        return float(nats / len(said.encode()))

    @cache
    def first_tokens(dialogue: Dialogue) -> tuple[float, float]:
        ids, chosen, entropy = tokenizer.prompt_ids(dialogue), list[float](), list[float]()
        for _ in range(FIRST):
            log_p = log_softmax(session.logits_after(ids, [len(ids) - 1])[0].astype(np.float64))
            ids = [*ids, int(log_p.argmax())]
            chosen.append(-float(log_p.max()))
            entropy.append(-float((np.exp(log_p) * log_p).sum()))
            if ids[-1] in tokenizer.eos_ids:
                break
        return float(np.mean(chosen)), float(np.mean(entropy))

    return {
        "student": words,
        "certainty": lambda d: first_tokens(d)[0],
        "entropy": lambda d: first_tokens(d)[1],
    }


def prompts(dialogues: Sequence[Dialogue], tokenizer: ChatTokenizer, count: int, draw: random.Random) -> list[Dialogue]:
    """Of some dialogues, their first turns."""
    some = draw.sample(dialogues, min(count, len(dialogues)))
    asked = (d.before(turn) for d in some for turn in d.assistant_turns[:TURNS])
    return [d for d in asked if len(tokenizer.prompt_ids(d)) <= LONGEST]


def auc(own: Sequence[float], other: Sequence[float]) -> float:
    """How often one of the others is higher; a tie counts half."""
    ranks = rankdata([*own, *other])[len(own) :]
    return float((ranks.sum() - len(other) * (len(other) + 1) / 2) / (len(own) * len(other)))


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("student", type=Path)
    parser.add_argument("--dialogues", type=Path, required=True)
    parser.add_argument("--outside", nargs="+", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=150)
    arguments = parser.parse_args()
    whole = read_dialogues(arguments.dialogues, split="train")
    parts, draw = split_set(whole, sizes(len(whole)), seed=arguments.seed), random.Random(arguments.seed)
    files = dict(pair.split("=", 1) for pair in arguments.outside)
    rows: list[dict[str, str | float]] = []
    with LlamaCpp().open(read_artifact(arguments.student), OperatingPoint()) as session:
        tokenizer = session.tokenizer
        own = prompts(parts["tune"].dialogues, tokenizer, arguments.count, draw)
        others = {
            name: prompts(read_dialogues(Path(file), split="tune").dialogues, tokenizer, arguments.count, draw)
            for name, file in files.items()
        }
        statistics = by_words(tokenizer, parts["train"].dialogues) | by_student(session)
        for name, statistic in statistics.items():
            say(f"{name}: {len(own)} prompts of the own kind, {sum(map(len, others.values()))} others")
            known = [statistic(d) for d in own]
            limit = float(np.quantile(known, 1 - SENT_AWAY))
            for kind, asked in others.items():
                seen = [statistic(d) for d in asked]
                caught = float(np.mean([s > limit for s in seen]))
                rows.append({"statistic": name, "kind": kind, "auc": auc(known, seen), "caught": caught})
    cells = [[name, *(_cell(rows, name, kind) for kind in others)] for name in statistics]
    print(markdown([["statistic", *others], *cells]))
    print(json.dumps({"prompts": len(own), "rows": rows}))


def _cell(rows: Sequence[dict[str, str | float]], statistic: str, kind: str) -> str:
    row = next(row for row in rows if (row["statistic"], row["kind"]) == (statistic, kind))
    return f"{row['auc']:.3f}, {row['caught']:.0%}"


if __name__ == "__main__":
    main()
