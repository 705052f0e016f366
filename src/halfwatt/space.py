"""What a search may put together: a model to begin with, a vocabulary, numbers, a draft. Pure.

    base      the original, a smaller model that was made before (step `adopt`), or a student of the original's
    student   shares of its blocks, channels and FFN neurons; how long it learns is for its round to say (halving.py)
    trim      none, or to the dialogues' own tokens
    numbers   int8, int4 with the head at either, int4 and int8 by layer; a student's are int4 by GPTQ
    draft     none, or an n-gram table; a student has none

Decisions are asked for one after the other, those that an earlier one rules out not at all, and every field by the
range that its own type names (steps/ranges.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from halfwatt.chat_model import ChatModel
from halfwatt.halving import Teaching
from halfwatt.recipe import Recipe
from halfwatt.steps.adopt import Adopt
from halfwatt.steps.allocate import Mixed
from halfwatt.steps.base import Step
from halfwatt.steps.distil import Distil
from halfwatt.steps.draft import Draft
from halfwatt.steps.prune import Prune
from halfwatt.steps.quantize import Quantize
from halfwatt.steps.ranges import Chooser, chosen, label
from halfwatt.steps.vocabulary import Trim

ORIGINAL, STUDENT = "original", "student"
ROUND = "round"  # of a student, among what was settled before a trial
_BLOCKS = (0.25, 0.375, 0.5, 0.75)  # shares that stay
_STUDENTS = ((0.25, 0.5, 0.25), (0.375, 0.667, 0.25), (0.5, 0.667, 0.5), (0.75, 0.75, 0.5))  # blocks, width, ffn


@dataclass(frozen=True, slots=True)
class School:
    """Students that are cut from the original, which then teaches them.

    blocks, kv_heads, parameters:  the original's; kv_heads None = its width and heads cannot be cut
    """

    teaching: Teaching
    blocks: int
    kv_heads: int | None
    parameters: int

    @classmethod
    def of(cls, model: ChatModel, teaching: Teaching) -> School:
        """For this model."""
        config = model.network.config
        cuttable = not Prune(width=0.5, kv_heads=1).problems(model)
        heads = int(config.num_key_value_heads) if cuttable else None
        return cls(teaching, int(config.num_hidden_layers), heads, sum(p.numel() for p in model.network.parameters()))

    def first(self) -> list[dict[str, Any]]:
        """From the most daring to the safest."""
        return [
            {"student.blocks": blocks, "prune.ffn": ffn} | ({} if self.kv_heads is None else {"prune.width": width})
            for blocks, width, ffn in _STUDENTS
        ]

    def student(self, trim: list[Step], choose: Chooser) -> Recipe:
        """Cut, taught up to its round, and rounded."""
        blocks = choose.suggest_categorical("student.blocks", _BLOCKS)
        cut = chosen(Prune, choose, **({"width": 1.0} if self.kv_heads is None else {}))
        assert isinstance(cut, Prune)
        heads = None if self.kv_heads is None else max(1, round(self.kv_heads * cut.width))
        cut = replace(cut, drop=self.blocks - max(1, round(self.blocks * blocks)), kv_heads=heads)
        lessons = self.teaching.lessons(choose.user_attrs.get(ROUND, 0))
        longest = sum(self.teaching.lessons(self.teaching.rounds - 1))  # the same for all rounds: they are one recipe
        taught = Distil(temperature=1.0, label_weight=0.5, lr=self._rate(cut), cached=32 if longest > 2 else 0)
        names = [STUDENT, *map(label, trim), f"blocks {blocks:g}", label(cut), f"epochs {sum(lessons):.3g}"]
        learn = [replace(taught, epochs=epochs) for epochs in lessons]
        return Recipe(", ".join(names), (*trim, cut, *learn, Quantize(4, method="gptq")))

    def _rate(self, cut: Prune) -> float:
        """3e-3 for 3M parameters, and with the square root of their number; see `Distil` for where that comes from."""
        share = cut.width * (self.blocks - cut.drop) / self.blocks * (1 + 2 * cut.ffn) / 3
        return float(f"{min(3e-3, 3e-3 * (3e6 / (self.parameters * share)) ** 0.5):.1g}")


@dataclass(frozen=True, slots=True)
class Space:
    """What one search may try.

    adopted:  models made before, beside the original
    trims:    the original's vocabulary can be trimmed
    learned:  there are dialogues to calibrate on; without them only round to nearest is left
    school:   how students are taught; None = there are none
    """

    adopted: tuple[Adopt, ...] = ()
    trims: bool = True
    learned: bool = True
    school: School | None = None

    @classmethod
    def of(cls, model: ChatModel, adopted: tuple[Adopt, ...], learned: bool, teaching: Teaching | None = None) -> Space:
        """For this model."""
        school = None if teaching is None else School.of(model, teaching)
        return cls(adopted, learned and not Trim().problems(model), learned, school)

    def first(self) -> list[dict[str, Any]]:
        """The decisions to begin with: the most daring first, then the safest."""
        daring: dict[str, Any] = {"numbers": "int4", "quantize.head_bits": None}
        if self.learned:
            daring |= {"quantize.method": "gptq", "draft": True, "draft.order": 4}
        safe = {"numbers": "int8"} | ({"draft": False} if self.learned else {})
        untrimmed = {"trim": False} if self.trims else {}
        begun = [{"base": base} for base in self._bases() if base != STUDENT] if len(self._bases()) > 1 else [{}]
        trimmed = {"trim": True, "trim.coverage": 0.999} if self.trims else {}
        students = [] if self.school is None else [{"base": STUDENT} | trimmed | cut for cut in self.school.first()]
        return [*(base | untrimmed | daring for base in begun), *students, begun[-1] | untrimmed | safe]

    def recipe(self, choose: Chooser) -> Recipe:
        """One recipe; the same decisions make the same one, under the same name."""
        bases = self._bases()
        base = choose.suggest_categorical("base", tuple(bases)) if len(bases) > 1 else ORIGINAL
        if base == STUDENT and self.school is not None:
            return self.school.student(self._trim(base, choose), choose)
        steps: list[Step] = [*bases[base], *self._trim(base, choose), self._numbers(choose)]
        if self.learned and choose.suggest_categorical("draft", (True, False)):
            steps.append(chosen(Draft, choose))
        names = [base.rstrip("/").rsplit("/", 1)[-1], *(label(s) for s in steps if not isinstance(s, Adopt))]
        return Recipe(", ".join(names), tuple(steps))

    def _bases(self) -> dict[str, tuple[Step, ...]]:
        """By name; the original comes last among those that are made already."""
        made: dict[str, tuple[Step, ...]] = {step.folder: (step,) for step in self.adopted}
        return made | {ORIGINAL: ()} | ({} if self.school is None else {STUDENT: ()})

    def _trim(self, base: str, choose: Chooser) -> list[Step]:
        """An adopted model has the vocabulary that it was taught with."""
        if base not in (ORIGINAL, STUDENT) or not self.trims or not choose.suggest_categorical("trim", (True, False)):
            return []
        return [chosen(Trim, choose)]

    def _numbers(self, choose: Chooser) -> Step:
        """int8 loses next to nothing, however it is rounded: there is one of it."""
        kinds = ("int8", "int4", "mixed") if self.learned else ("int8", "int4")
        kind = choose.suggest_categorical("numbers", kinds)
        if kind == "int8":
            return Quantize(8)
        if kind == "mixed":
            return chosen(Mixed, choose)
        return chosen(Quantize, choose, bits=4, **({} if self.learned else {"method": "rtn"}))
