"""What the gate reads, made up: a reference, and a candidate that differs from it in stated ways and by some noise.

report(inputs(400, Damage(nll=0.05)))
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from halfwatt.core.settings import Margins
from halfwatt.evaluate.gate import judge
from halfwatt.evaluate.records import Facts, Fit, QualityInputs, QualityReport, ScoredReply, TeacherScore
from halfwatt.formats.artifact import Parity

WORDS = [
    a + b for a in ("ka", "lo", "mi", "nu", "po", "ra", "se", "ti") for b in ("ben", "dor", "fil", "gam", "hut", "jos")
]
CAP = 256
FAITHFUL = Parity(64, 2000, True, True, True, True, 2e-6, 1e-4, 0.9995)


@dataclass(frozen=True)
class Damage:
    """How the candidate differs from the reference, on average."""

    nll: float = 0.0  # nats per token worse
    eos: float = 0.0  # change of log P(EOS) at true ends
    elsewhere: float = 1.0  # factor on P(EOS) elsewhere
    longer: float = 1.0  # factor on tokens
    failing: float = 0.0  # share of dialogues whose replies go round in circles
    wrong: float = 0.0  # share of replies that answer something else
    dull: float = 0.0  # share of dialogues that get the same stock reply
    swap: float = 0.2  # share of replies with one word changed: noise, not damage
    forgetful: float = 0.0  # share of values that the reference carries and the candidate does not
    elsewhere_asked: float = 0.0  # share of dialogues whose reply belongs to another


def inputs(dialogues: int, damage: Damage = Damage(), seed: int = 0) -> QualityInputs:
    """One reply greedy and two sampled for each dialogue."""
    rng = np.random.default_rng(seed)
    teacher = tuple(_teacher(f"d{i}", damage, rng) for i in range(dialogues))
    pairs = [pair for i in range(dialogues) for pair in _replies(f"d{i}", damage, rng)]
    facts, pairs = with_values(pairs, damage, rng)
    fit = tuple(_fit(f"d{i}", damage, rng) for i in range(dialogues))
    return QualityInputs(FAITHFUL, teacher, tuple(r for r, _ in pairs), tuple(c for _, c in pairs), facts, fit)


def report(inputs: QualityInputs, margins: Margins = Margins()) -> QualityReport:  # noqa: B008 - frozen
    """The gate's judgement with plain settings."""
    return judge(inputs, split="test", margins=margins, special=("<|im_end|>",), seed=0)


def _teacher(dialogue: str, damage: Damage, rng: np.random.Generator) -> TeacherScore:
    tokens, ends = int(rng.integers(10, 60)), int(rng.integers(1, 4))
    nll, log_eos, elsewhere = 2.0 * tokens + rng.normal(0, 5), -0.3 * ends, 0.01 * (tokens - ends)
    return TeacherScore(
        dialogue=dialogue,
        tokens=tokens,
        nll_ref=nll,
        nll_cand=nll + tokens * (damage.nll + rng.normal(0, 0.03)),
        ends=ends,
        log_p_eos_ref=log_eos,
        log_p_eos_cand=log_eos + ends * (damage.eos + rng.normal(0, 0.05)),
        elsewhere=tokens - ends,
        p_eos_ref=elsewhere,
        p_eos_cand=elsewhere * damage.elsewhere * (1 + rng.normal(0, 0.05)),
        kl=0.001 * tokens,
        kl_max=0.01,
        top1_same=tokens,
        stay_ref=elsewhere,
        stay_cand=elsewhere * damage.elsewhere,
    )


def _replies(dialogue: str, damage: Damage, rng: np.random.Generator) -> list[tuple[ScoredReply, ScoredReply]]:
    failing, dull = rng.random() < damage.failing, rng.random() < damage.dull
    pairs = []
    for seed in (None, 1, 2):
        words = list(rng.choice(WORDS, int(rng.integers(8, 15))))
        human = " ".join(words[: len(words) // 2] + list(rng.choice(WORDS, len(words) - len(words) // 2)))
        reference = ScoredReply(dialogue, 1, seed, " ".join(words), 3 * len(words), True, CAP, human)
        other = list(words)
        if rng.random() < damage.swap:
            other[int(rng.integers(len(other)))] = str(rng.choice(WORDS))
        if rng.random() < damage.wrong:
            other = list(rng.choice(WORDS, len(words)))
        if dull:
            other = ["i", "can", "help", "you", "with", "that", "of", "course"]
        if failing:
            other = ["again", "and"] * 12
        tokens = max(1, round(3 * len(words) * damage.longer + rng.normal(0, 1)))
        pairs.append((reference, ScoredReply(dialogue, 1, seed, " ".join(other), tokens, True, CAP, human)))
    return pairs


def with_values(
    pairs: list[tuple[ScoredReply, ScoredReply]], damage: Damage, rng: np.random.Generator
) -> tuple[tuple[Facts, ...], list[tuple[ScoredReply, ScoredReply]]]:
    """Three numbers that every greedy reply has to carry; each side lacks one in twenty of them by itself."""
    facts, valued = [], []
    for n, (ref, cand) in enumerate(pairs):
        if ref.seed is None:
            values = tuple(str(1000 + 3 * n + k) for k in range(3))
            facts.append(Facts(ref.dialogue, ref.turn, values, values))
            told = [v for v in values if rng.random() > 0.05]
            kept = [v for v in values if rng.random() > 0.05 and rng.random() > damage.forgetful]
            human = " ".join([ref.reference, *values])
            ref, cand = (
                replace(r, text=" ".join([r.text, *own]), reference=human) for r, own in ((ref, told), (cand, kept))
            )
        valued.append((ref, cand))
    return tuple(facts), valued


def _fit(dialogue: str, damage: Damage, rng: np.random.Generator) -> Fit:
    """A judge that finds a reply 15 nats likelier after its own dialogue; people's are 1 nat less its own."""
    people, reference, candidate = (rng.normal([own, *[-15.0] * 7], 3.0) for own in (-1.0, 0.0, 0.0))
    if rng.random() < damage.elsewhere_asked:
        candidate = np.roll(candidate, 1)
    return Fit(dialogue, 1, *(tuple(map(float, row)) for row in (people, reference, candidate)))
