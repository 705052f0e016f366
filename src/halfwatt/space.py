"""What a search may put together: a model to begin with, a vocabulary, numbers, a draft. Training is not in it. Pure.

    base      the original, or a smaller model that was made before (step `adopt`)
    trim      none, or to the dialogues' own tokens
    numbers   int8, int4 with the head at either, int4 and int8 by layer
    draft     none, or an n-gram table

Decisions are asked for one after the other, those that an earlier one rules out not at all, and every field by the
range that its own type names (steps/ranges.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from halfwatt.chat_model import ChatModel
from halfwatt.recipe import Recipe
from halfwatt.steps.adopt import Adopt
from halfwatt.steps.allocate import Mixed
from halfwatt.steps.base import Step
from halfwatt.steps.draft import Draft
from halfwatt.steps.quantize import Quantize
from halfwatt.steps.ranges import Chooser, chosen, label
from halfwatt.steps.vocabulary import Trim

ORIGINAL = "original"


@dataclass(frozen=True, slots=True)
class Space:
    """What one search may try.

    adopted:  models made before, beside the original
    trims:    the original's vocabulary can be trimmed
    learned:  there are dialogues to calibrate on; without them only round to nearest is left
    """

    adopted: tuple[Adopt, ...] = ()
    trims: bool = True
    learned: bool = True

    @classmethod
    def of(cls, model: ChatModel, adopted: tuple[Adopt, ...], learned: bool) -> Space:
        """For this model."""
        return cls(adopted, learned and not Trim().problems(model), learned)

    def first(self) -> list[dict[str, Any]]:
        """The decisions to begin with: the most daring first, then the safest."""
        daring: dict[str, Any] = {"numbers": "int4", "quantize.head_bits": None}
        if self.learned:
            daring |= {"quantize.method": "gptq", "draft": True, "draft.order": 4}
        safe = {"numbers": "int8"} | ({"draft": False} if self.learned else {})
        untrimmed = {"trim": False} if self.trims else {}
        bases = [*(step.folder for step in self.adopted), ORIGINAL]
        begun = [{"base": base} if self.adopted else {} for base in bases]
        return [*(base | untrimmed | daring for base in begun), begun[-1] | untrimmed | safe]

    def recipe(self, choose: Chooser) -> Recipe:
        """One recipe; the same decisions make the same one, under the same name."""
        bases = {ORIGINAL: (), **{step.folder: (step,) for step in self.adopted}}
        base = choose.suggest_categorical("base", tuple(bases)) if self.adopted else ORIGINAL
        steps: list[Step] = [*bases[base], *self._trim(base, choose), self._numbers(choose)]
        if self.learned and choose.suggest_categorical("draft", (True, False)):
            steps.append(chosen(Draft, choose))
        names = [base.rstrip("/").rsplit("/", 1)[-1], *(label(s) for s in steps if not isinstance(s, Adopt))]
        return Recipe(", ".join(names), tuple(steps))

    def _trim(self, base: str, choose: Chooser) -> list[Step]:
        """An adopted model has the vocabulary that it was taught with."""
        if base != ORIGINAL or not self.trims or not choose.suggest_categorical("trim", (True, False)):
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
