"""What a search may put together: a model to begin with, a vocabulary, numbers, a draft. Pure.

    base      the original, a smaller model that was made before (step `adopt`), or a student, cut or fresh
    student   of which of those models, and what shares of its blocks, channels and FFN neurons; how long it learns is
              for its round to say (successive_halving.py). The original teaches all of them
    fresh     a student that people's replies teach (student_plan.py), and the original where it knows more of them: of
              which size, or with how many of the original's blocks
    trim      none, or to the dialogues' own tokens; what was made before has the vocabulary that it was taught with
    numbers   int8, int4 with the head at either, int4 and int8 by layer; a student's are int4 by GPTQ
    draft     none, or an n-gram table; a student has none

Decisions come one after the other, without those that an earlier one rules out (ranges: compress/search_ranges.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from halfwatt.compress.base import Step
from halfwatt.compress.distil import Distil
from halfwatt.compress.ngram_draft import Draft
from halfwatt.compress.pretrained import Adopt
from halfwatt.compress.prune import Prune
from halfwatt.compress.quantize.mixed_precision import Mixed
from halfwatt.compress.quantize.quantize import Quantize
from halfwatt.compress.recipe import Recipe
from halfwatt.compress.search_ranges import Chooser, suggest_step
from halfwatt.compress.vocabulary_trim import Trim
from halfwatt.core.errors import BadInput
from halfwatt.models.chat_model import ChatModel, outline
from halfwatt.search.student_plan import Curriculum, StudentPlan
from halfwatt.search.successive_halving import RATE, Teaching

ORIGINAL, STUDENT, FRESH = "original", "student", "fresh"
BASE = "base"  # the decision that a recipe begins with
_OF, _SIZE = "student.of", "fresh.size"
_HORIZON = 3.3  # passes, see `Distil`; six passes over 1,500 dialogues with 13, 3.3 and 1: 1.534, 1.345, 2.091 nats
_CACHED = 32  # tokens of the teacher's answers, which all students of a round share
ROUND, ASKED = "round", "asked"  # of a student, among what was settled before a trial; ASKED: see `Distil.asked`
_BLOCKS = (0.25, 0.375, 0.5, 0.667, 1.0)  # shares that stay
_STUDENTS = ((0.25, 0.5, 0.25), (0.375, 0.667, 0.25), (0.5, 0.667, 0.5), (0.667, 0.75, 0.5))  # blocks, width, ffn
_SMALLER = ((0.375, 1.0, 1.0), (0.667, 0.75, 0.5), (0.667, 1.0, 0.5), (0.667, 1.0, 1.0))  # of what is small already


@dataclass(frozen=True, slots=True)
class Parent:
    """What students are cut from, and the steps that make it of the original."""

    steps: tuple[Step, ...]
    blocks: int
    kv_heads: int | None  # None = its width and heads cannot be cut
    parameters: int

    @classmethod
    def of(cls, model: ChatModel, *steps: Step) -> Parent:
        """What these steps make is shaped like ``model``."""
        config, parameters = model.network.config, sum(p.numel() for p in model.network.parameters())
        heads = None if Prune(width=0.5, kv_heads=1).problems(model) else model.architecture.kv_heads(config)
        return cls(steps, int(config.num_hidden_layers), heads, parameters)

    def first(self) -> list[dict[str, Any]]:
        """Cuts to begin with, from the most daring to the safest."""
        return [
            {"student.blocks": blocks, "prune.ffn": ffn} | ({} if self.kv_heads is None else {"prune.width": width})
            for blocks, width, ffn in (_SMALLER if self.steps else _STUDENTS)
        ]

    def cut(self, choose: Chooser) -> Prune:
        """What stays."""
        blocks = choose.suggest_categorical("student.blocks", _BLOCKS)
        cut = suggest_step(Prune, choose, **({"width": 1.0} if self.kv_heads is None else {}))
        assert isinstance(cut, Prune)
        heads = None if self.kv_heads is None else max(1, round(self.kv_heads * cut.width))
        return replace(cut, drop=self.blocks - max(1, round(self.blocks * blocks)), kv_heads=heads)

    def rate(self, cut: Prune) -> float:
        """Of what stays."""
        share = cut.width * (self.blocks - cut.drop) / self.blocks * (1 + 2 * cut.ffn) / 3
        return learning_rate(self.parameters * share)


def learning_rate(parameters: float) -> float:
    """3e-3 for 3M parameters, and with the square root of their number; see `Distil` for where that comes from."""
    return float(f"{min(3e-3, 3e-3 * (3e6 / parameters) ** 0.5):.1g}")


@dataclass(frozen=True, slots=True)
class StudentSpace:
    """Students, cut from the original or from what was made of it before; the original teaches all of them."""

    teaching: Teaching
    parents: Mapping[str, Parent]  # by the name of their base

    @classmethod
    def of(cls, model: ChatModel, adopted: Sequence[Adopt], teaching: Teaching) -> StudentSpace:
        """Whoever reads the original's tokens can learn from it."""
        tokens, smaller = model.network.config.vocab_size, [(step, outline(step.folder)) for step in adopted]
        alike = [(step, small) for step, small in smaller if small.network.config.vocab_size == tokens]
        parents = {step.folder: Parent.of(small, step) for step, small in alike}
        return cls(teaching, parents | {ORIGINAL: Parent.of(model)})

    def first(self) -> list[dict[str, Any]]:
        """Decisions to begin with: not more than a first round is planned for, and then the safest of each parent."""
        several = len(self.parents) > 1
        each = max(1, RATE ** (self.teaching.rounds - 1) // len(self.parents))
        return [({_OF: name} if several else {}) | cut for name, p in self.parents.items() for cut in p.first()[-each:]]

    def student(self, of: str, trim: list[Step], choose: Chooser) -> Recipe:
        """Cut, taught up to its round, and rounded."""
        parent, lessons = self.parents[of], self.teaching.lessons(choose.user_attrs.get(ROUND, 0))
        cut = parent.cut(choose)
        taught = Distil(temperature=1.0, label_weight=0.5, lr=parent.rate(cut), cached=_CACHED)
        whose, blocks = STUDENT if of == ORIGINAL else f"{STUDENT} of {_short(of)}", parent.blocks - cut.drop
        stay = f"{blocks} block{'s' if blocks > 1 else ''}"
        names = [whose, *map(str, trim), stay, str(cut), f"epochs {sum(lessons):.3g}"]
        learn = [replace(taught, epochs=epochs) for epochs in lessons]
        return Recipe(", ".join(names), (*parent.steps, *trim, cut, *learn, Quantize(4, method="gptq")))


@dataclass(frozen=True, slots=True)
class FreshSpace:
    """Students that people teach: of random weights, or with some of the original's blocks."""

    plan: StudentPlan
    blocks: int = 0  # of the original

    def first(self) -> list[dict[str, Any]]:
        """As many as the plan says."""
        return [{_SIZE: prospect.name} for prospect in self.plan.prospects[: self.plan.students]]

    def student(self, trim: list[Step], choose: Chooser) -> Recipe:
        """Taught up to its round, and rounded."""
        by_size = {prospect.name: prospect for prospect in self.plan.prospects}
        prospect = by_size[choose.suggest_categorical(_SIZE, tuple(by_size))]
        lessons = self.plan.lessons(prospect, choose.user_attrs.get(ROUND, 0))
        labels = Distil(kind="labels", lr=learning_rate(prospect.parameters), horizon=_HORIZON)
        learn = [replace(labels, epochs=epochs) for epochs in lessons]
        if asked := choose.user_attrs.get(ASKED, 0.0):
            both = replace(learn[-1], kind="logits", temperature=1.0, label_weight=0.5, cached=_CACHED, asked=asked)
            learn = [*learn[:-1], both]
        heard = [f"{asked:.0%} asked"] if asked else []
        names = ["taught by people", *map(str, trim), prospect.name, f"epochs {sum(lessons):.3g}", *heard]
        kept = Prune(drop=self.blocks - (prospect.blocks or 0), chosen="middle")
        return Recipe(", ".join(names), (*trim, prospect.student or kept, *learn, Quantize(4, method="gptq")))


def require_distinct(candidates: Sequence[str]) -> None:
    """Recipes are told apart by their names, and those by the last part of a candidate's path.

    Raises:
        BadInput: two candidates end alike, or one is called as the original is.
    """
    names = [ORIGINAL, *map(_short, candidates)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise BadInput(f"two models of the search would be called {twice}", hint="rename a --candidate folder")


def _short(base: str) -> str:
    return base.rstrip("/").rsplit("/", 1)[-1]


@dataclass(frozen=True, slots=True)
class Space:
    """What one search may try."""

    adopted: tuple[Adopt, ...] = ()  # models made before, beside the original
    trims: bool = True  # the original's vocabulary can be trimmed
    learned: bool = True  # there are dialogues to calibrate on; without them only round to nearest is left
    school: StudentSpace | None = None  # None = no students that are cut
    fresh: FreshSpace | None = None  # None = no fresh ones
    opened: bool = True  # steps can open the original's network; else its students alone are left

    @classmethod
    def of(cls, model: ChatModel, adopted: tuple[Adopt, ...], learned: bool, curriculum: Curriculum) -> Space:
        """For this model."""
        school = None if curriculum.cut is None else StudentSpace.of(model, adopted, curriculum.cut)
        blocks = int(model.network.config.num_hidden_layers)
        fresh = None if curriculum.fresh is None else FreshSpace(curriculum.fresh, blocks)
        return cls(adopted, learned and not Trim().problems(model), learned, school, fresh, not model.run_only)

    @property
    def empty(self) -> bool:
        """Is there nothing to try?"""
        return not self._bases()

    def first(self) -> list[dict[str, Any]]:
        """To begin with: what is made already at its most daring, the safest, a draft, which takes long to make;
        students last, so that their further rounds follow them. Of a large original they come before its own forms: to
        measure it rounded takes as long as to teach, and saves less."""
        bases = self._bases()
        large = self.fresh is not None and self.school is None  # read so slowly that rounding it with care takes long
        careful = {"quantize.method": "rtn" if large else "gptq"} if self.learned else {}
        plain = {"draft": False} if self.learned else {}
        daring: dict[str, Any] = {"numbers": "int4", "quantize.head_bits": None} | plain | careful
        untrimmed = {"trim": False} if self.trims else {}
        trimmed = {"trim": True, "trim.coverage": 0.999} if self.trims else {}
        ready = [base for base in bases if base not in (STUDENT, FRESH)]
        begun: list[dict[str, Any]] = [{BASE: base} for base in ready]
        cuts = [] if self.school is None else self.school.first()
        students = [{BASE: STUDENT} | cut | (trimmed if cut.get(_OF, ORIGINAL) == ORIGINAL else {}) for cut in cuts]
        safe = [base | untrimmed | plain | {"numbers": "int8"} for base in begun[-1:]]
        bold = [base | untrimmed | daring for base in begun]
        whole = {"trim.coverage": 0.9999} if self.trims else {}
        fresh = [] if self.fresh is None else [{BASE: FRESH} | size | whole for size in self.fresh.first()]
        guessing = [bold[0] | {"draft": True, "draft.order": 4}] if self.learned and bold and not fresh else []
        adopted = len(self.adopted)
        if large:
            return [*bold[:adopted], *fresh, *safe, *bold[adopted:]]
        return [*bold, *safe, *guessing, *fresh, *students]

    def recipe(self, choose: Chooser) -> Recipe:
        """One recipe; the same decisions make the same one, under the same name."""
        bases = self._bases()
        base = choose.suggest_categorical(BASE, tuple(bases))  # of one too: by it a student's further rounds are told
        if base == STUDENT and self.school is not None:
            parents = tuple(self.school.parents)
            of = choose.suggest_categorical(_OF, parents) if len(parents) > 1 else ORIGINAL
            return self.school.student(of, self._trim(of, choose), choose)
        if base == FRESH and self.fresh is not None:
            trim: list[Step] = [suggest_step(Trim, choose)] if self.trims else []  # as the plan's paces were measured
            return self.fresh.student(trim, choose)
        steps: list[Step] = [*bases[base], *self._trim(base, choose), self._numbers(choose)]
        if self.learned and choose.suggest_categorical("draft", (True, False)):
            steps.append(suggest_step(Draft, choose))
        names = [_short(base), *(str(s) for s in steps if not isinstance(s, Adopt))]
        return Recipe(", ".join(names), tuple(steps))

    def _bases(self) -> dict[str, tuple[Step, ...]]:
        """By name; the original comes last among those that are made already."""
        adopted: dict[str, tuple[Step, ...]] = {step.folder: (step,) for step in self.adopted}
        students = ((STUDENT, self.school), (FRESH, self.fresh))
        original: dict[str, tuple[Step, ...]] = {ORIGINAL: ()} if self.opened else {}
        return adopted | original | {name: () for name, space in students if space is not None}

    def _trim(self, base: str, choose: Chooser) -> list[Step]:
        if base != ORIGINAL or not self.trims or not choose.suggest_categorical("trim", (True, False)):
            return []
        return [suggest_step(Trim, choose)]

    def _numbers(self, choose: Chooser) -> Step:
        """int8 loses next to nothing, however it is rounded: there is one of it."""
        kind = choose.suggest_categorical("numbers", ("int8", "int4", *(["mixed"] if self.learned else [])))
        if kind == "int8":
            return Quantize(8)
        if kind == "mixed":
            return suggest_step(Mixed, choose)
        return suggest_step(Quantize, choose, bits=4, **({} if self.learned else {"method": "rtn"}))
