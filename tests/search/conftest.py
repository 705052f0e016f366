"""A taught model with B1 built, whose labs the tests of a search share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from halfwatt.dialogues.dialogue import DialogueSet
from halfwatt.dialogues.splits import SealedSplit
from halfwatt.meters.discover import instruments
from halfwatt.models.chat_model import load
from halfwatt.runtimes.base import OperatingPoint
from halfwatt.search.job import Job
from halfwatt.search.lab import Contender, Lab
from halfwatt.search.optimize import baseline
from halfwatt.search.stages import TuneOrder, Tuning
from halfwatt.search.trial import Served
from tests.support import taught_students as taught
from tests.support.hasty_optimize import SETTINGS
from tests.support.scripted_lab import Script, ScriptedStore

PLAIN = OperatingPoint(threads=1, threads_prefill=1)


@dataclass(frozen=True)
class Ground:
    """A taught model with B1 built, whose labs tests share."""

    job: Job
    b1: Contender

    def lab(self, folder: Path, script: Script | None = None, interrupt: tuple[str, int] | None = None) -> Lab:
        """A lab with a store of its own."""
        return Lab.of(self.job, ScriptedStore(folder / "stages", script, interrupt), self.job.tune, "tune")


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    folder = tmp_path_factory.mktemp("candidates")
    dialogues = taught.dialogues()
    model = load(taught.folder(folder, "llama", dialogues, taught.School(steps=60)))
    tune, train = (DialogueSet.of(some, split="tune", licence="") for some in (dialogues[:10], dialogues[10:30]))
    tools = instruments("cpu")
    job = Job(model, tune, SealedSplit(tune, folder / "seal"), folder, tools, SETTINGS, train=train)
    lab = Lab.of(job, ScriptedStore(folder / "stages", {"tune": as_it_is}), tune, "tune")
    yield Ground(job, Contender.of(baseline(lab, "B1")))
    tools.close()


def as_it_is(order: TuneOrder) -> Tuning:
    return Tuning((Served(PLAIN, 1.0),))
