"""What a time can teach students: which, for how long, from paces measured on this machine. Pure.

Two kinds: with the first and last blocks of the original and people's replies to learn, or of random weights.
After 380 s of two cores the first (4 of SmolLM2's 30 blocks, 18M parameters) found people's replies 0.64 nats a token
likelier than a fresh one of half the size that had read 1.8x as much (docs/log.md): they come first.

    tokens in the time = seconds / (s_0 + s_1 N)            N = parameters; two paces measured in the first seconds
    the size           = the largest whose tokens are at least 3/4 of its parameters

A fresh student on few dialogues sees them many times over, which is worth nearly as much as new ones for four passes
and little after some sixteen (Muennighoff et al., arXiv 2305.16264): what is left of the time then goes into a larger
network. One student takes all of the time unless several could each read `COMPARABLE` tokens: of less, the smallest
always looks best, because it reads most. It is looked at before its end only where that may change what it learns from:
a look costs minutes of the original's replies.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from halfwatt.compress.fresh_student import HEAD, Student
from halfwatt.search.successive_halving import RATE, Teaching, plan_teaching

SIZES = tuple(
    Student(blocks, width, 3 * width, kv_heads)
    for blocks, width, kv_heads in (
        (3, 128, 1),
        (3, 192, 1),
        (4, 256, 2),
        (4, 384, 2),
        (6, 448, 1),
        (6, 512, 2),
        (8, 576, 3),
    )
)
ENOUGH = 5_000_000  # tokens in all, of less than which no student has answered anybody
ENOUGH_FOR_BLOCKS = 1_000_000  # the same, of one that begins with blocks of the original
_KEPT = (3, 2, 4, 8)  # of the original's blocks, in order of trial: in equal time 1.355, 1.456, 1.345 nats
COMPARABLE = 3_000_000  # in a first lesson
_PASSES = 24.0  # over the dialogues, at most
_A_PARAMETER = 0.75  # tokens
_CUT_S = 1.35  # s that a cut student takes for a token that the original reads in 1 s
_FRESH_SHARE, _BESIDE_CUT = 0.7, 0.2  # of the budget's time
_ASKING_SHARE = 0.15  # of the time of fresh students


def parameters(student: Student, vocabulary: int) -> int:
    """Of a student with so many tokens, norms included."""
    attention = student.width * HEAD * (2 * (student.width // HEAD) + 2 * student.kv_heads)
    block = attention + 3 * student.width * student.ffn + 2 * student.width
    return student.layers * block + (vocabulary + 1) * student.width


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds a token in which a network of N parameters learns here: a line through what two of them took."""

    fixed_s: float
    per_parameter_s: float

    @classmethod
    def through(cls, small: tuple[int, float], large: tuple[int, float]) -> Pace:
        """Each as (parameters, seconds a token)."""
        slope = max(0.0, (large[1] - small[1]) / (large[0] - small[0]))
        return cls(max(0.0, small[1] - slope * small[0]), slope)

    def of(self, numbers: int) -> float:
        """Of so many parameters."""
        return self.fixed_s + self.per_parameter_s * numbers


@dataclass(frozen=True, slots=True)
class Prospect:
    """A student that a plan names, and what all of its lessons give it. blocks: of the original, that begin it."""

    student: Student | None  # None = it begins with blocks of the original
    blocks: int | None
    parameters: int
    tokens: int
    passes: float
    seconds: float

    @property
    def name(self) -> str:
        """Of its shape."""
        return f"{self.blocks} blocks of the original" if self.student is None else str(self.student)


@dataclass(frozen=True, slots=True)
class StudentPlan:
    """Students that a time can teach: ``students`` of them begin, each round takes ``RATE`` times as long.

    first_s: seconds of a first lesson; prospects: the one that the rules above name first, then its neighbours
    """

    first_s: float
    rounds: int
    students: int
    prospects: tuple[Prospect, ...]

    def lesson_s(self, number: int) -> float:
        """Seconds of the lesson of a round."""
        return self.first_s * float(RATE**number)

    def lessons(self, prospect: Prospect, until: int) -> tuple[float, ...]:
        """Passes over the dialogues of each round up to round ``until``."""
        whole = sum(RATE**k for k in range(self.rounds))
        return tuple(float(f"{prospect.passes * RATE**k / whole:.3g}") for k in range(until + 1))


def plan_students(seconds: float, paces: Paces) -> StudentPlan | None:
    """What ``seconds`` of teaching allow; None = nobody could learn enough.

    >>> plan = plan_students(2500, Paces(700_000, 6720, Pace(6e-5, 2.2e-11), asking_s=1e-3))
    >>> plan.students, plan.rounds, plan.prospects[0].name, round(plan.prospects[0].passes, 1)
    (1, 2, '4 blocks of 384', 13.3)
    """
    pace = paces.fresh
    alone = (1, 1 if paces.blocks else 2)  # a fresh one may hear the original in its second lesson
    for students, rounds in ((9, 3), (3, 2), alone):
        lessons = sum(max(1, students // RATE**k) * RATE**k for k in range(rounds))  # in first ones
        first_s, whole = seconds / lessons, sum(RATE**k for k in range(rounds))
        sizes = ((parameters(student, paces.vocabulary), student, None) for student in SIZES)
        able = [p for p in (_prospect(*size, paces, first_s * whole) for size in sizes) if p.tokens >= ENOUGH]
        kept = [_prospect(paces.with_blocks(n), None, n, paces, first_s * whole) for n in _KEPT if n < paces.blocks]
        kept = [p for p in kept if p.tokens >= ENOUGH_FOR_BLOCKS]
        middle = max((i for i, p in enumerate(able) if p.tokens >= _A_PARAMETER * p.parameters), default=0)
        prospects = (*kept, *sorted(able, key=lambda p: abs(able.index(p) - middle - 0.1)))
        if prospects and (students == 1 or first_s >= COMPARABLE * pace.of(prospects[0].parameters)):
            return StudentPlan(first_s, rounds, students, prospects)
    return None


def needed_s(enough: Callable[[float], StudentPlan | None], most_s: float = 7 * 24 * 3600) -> float | None:
    """The least time that some plan needs, within 10 %; None = more than ``most_s``, as of too few dialogues."""
    seconds = 60.0
    while seconds <= most_s:
        if enough(seconds) is not None:
            return seconds
        seconds *= 1.1
    return None


@dataclass(frozen=True, slots=True)
class Paces:
    """What learning takes here, measured in the first seconds. tokens: of one pass over the training dialogues."""

    tokens: int
    vocabulary: int  # that students have
    fresh: Pace
    asking_s: float  # seconds in which the original reads a token
    blocks: int = 0  # of the original, that a student may begin with; 0 = it cannot
    block_parameters: int = 0
    other_parameters: int = 0  # embedding, head and last norm, with the students' vocabulary

    @property
    def cut_s(self) -> float:
        """Seconds that a student that was cut takes for a token: to learn, and to ask the original its part."""
        return _CUT_S * self.asking_s

    def with_blocks(self, count: int) -> int:
        """Parameters of a student that begins with so many of the original's blocks."""
        return self.other_parameters + count * self.block_parameters


@dataclass(frozen=True, slots=True)
class Curriculum:
    """What a budget can teach. asked: share of the dialogues that fresh students may hear the original about."""

    cut: Teaching | None = None
    fresh: StudentPlan | None = None
    asked: float = 0.0


@dataclass(frozen=True, slots=True)
class TeachingPlan:
    """What a search expected to teach: its time, the paces that it measured, and what they allow."""

    seconds: float
    paces: Paces
    curriculum: Curriculum

    @classmethod
    def of(cls, seconds: float, paces: Paces) -> TeachingPlan:
        """Fresh students take most of the time, unless the original is read so fast that cutting it pays."""
        cut = plan_teaching(seconds, paces.cut_s, paces.tokens)
        share = _FRESH_SHARE if cut is None else _BESIDE_CUT
        asked = min(1.0, _ASKING_SHARE * share * seconds / (paces.tokens * paces.asking_s))
        return cls(seconds, paces, Curriculum(cut, plan_students(share * seconds, paces), float(f"{asked:.1g}")))

    @property
    def lines(self) -> list[str]:
        """In words; where nobody can learn enough, what it would take."""
        lines, cut, fresh, minutes = [], self.curriculum.cut, self.curriculum.fresh, self.seconds / 60
        if cut is not None:
            lines.append(f"students cut from the original: {cut.rounds} rounds, {cut.epochs:g} passes in the first")
        if fresh is not None:
            first, others = fresh.prospects[0], [p.name for p in fresh.prospects[1 : fresh.students]]
            lines.append(
                f"a student of {first.name}, {first.parameters / 1e6:.1f}M parameters, can read "
                f"{first.tokens / 1e6:.1f}M tokens, {first.passes:.1f} passes over the dialogues, in "
                f"{first.seconds / 60:.0f} of the {minutes:.0f} minutes"
                + (f"; also {', '.join(others)}" if others else "")
            )
        if not lines:
            least = needed_s(lambda s: plan_students(_FRESH_SHARE * s, self.paces))
            few = f"the dialogues' {self.paces.tokens:,} tokens are too few"
            much = f"it would take --budget {math.ceil(least / 60)}m" if least else few
            lines.append(f"no student could learn enough within {minutes:.0f} minutes here: {much}")
        return lines


def _prospect(numbers: int, student: Student | None, blocks: int | None, paces: Paces, seconds: float) -> Prospect:
    pace_s = paces.fresh.of(numbers)
    read = min(round(seconds / pace_s), round(_PASSES * paces.tokens))
    return Prospect(student, blocks, numbers, read, read / paces.tokens, read * pace_s)
