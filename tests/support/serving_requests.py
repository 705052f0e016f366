"""What tests of llama.cpp's ways of serving ask: every way must give the replies of one thread and one dialogue."""

from __future__ import annotations

from halfwatt.models.sampling import Sampling
from halfwatt.runtimes.base import OperatingPoint
from tests.support import tiny_models as tiny

ONE = OperatingPoint(threads=1)
GREEDY = Sampling(max_new_tokens=24)
DRAWN = Sampling(temperature=0.7, top_k=5, max_new_tokens=24, seed=3)
STRICT = Sampling(repetition_penalty=1.3, max_new_tokens=24)
PROMPTS = [d.before(turn) for d in tiny.dialogues() for turn in d.assistant_turns]
