"""Where candidates are tried: a job, its finished stages, and the workload of one split."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar, get_type_hints

from halfwatt.dialogues.dialogue import DialogueSet
from halfwatt.evaluate.requests import ChatFormat, Workload, make_workload
from halfwatt.formats.artifact import Artifact
from halfwatt.runtimes.base import OperatingPoint
from halfwatt.runtimes.serving_process import ServingSpec
from halfwatt.search.job import Job
from halfwatt.search.stage_store import StageStore
from halfwatt.search.trial import Trial

Order = TypeVar("Order")
Outcome = TypeVar("Outcome")


@dataclass(frozen=True, slots=True)
class Contender:
    """An artifact at an operating point: what can be measured and judged."""

    name: str
    artifact: Artifact
    at: OperatingPoint

    @classmethod
    def of(cls, trial: Trial) -> Contender:
        """A trial that was built."""
        assert trial.artifact is not None, "what was not built is never measured"
        return cls(trial.name, trial.artifact, trial.at)

    def for_likelihood(self) -> Contender:
        """As it is asked for logits: all threads, no guesses; only the bits of its KV cache change what it says."""
        return replace(self, at=OperatingPoint(kv_bits=self.at.kv_bits))


@dataclass(frozen=True, slots=True)
class Lab:
    """One split of a job's dialogues, on which stages are run."""

    job: Job
    store: StageStore
    workload: Workload
    split: str
    threads: int | None = None  # of a build; None = one a core
    kind: str = ""  # of dialogue, where it is not the user's own

    @classmethod
    def of(cls, job: Job, store: StageStore, dialogues: DialogueSet, split: str) -> Lab:
        """On these dialogues, cut to what the job's model can read. Raises BadInput where none of them fits."""
        chat, settings = ChatFormat.of_model(job.model), job.settings
        return cls(job, store, make_workload(dialogues, chat, settings.requests, settings.seed).shuffled(), split)

    def part(self, start: int, stop: int) -> Lab:
        """On some of the dialogues."""
        workload = self.workload.part(start, stop)
        return replace(self, workload=workload, split=f"{self.split}, {start} to {start + len(workload.dialogues)}")

    def parts(self) -> Iterator[Lab]:
        """The dialogues to judge on: on the tune split, which only chooses, some at first, and as many again each time
        that the gate cannot tell yet; elsewhere all at once, since who looks before deciding how many is misled."""
        whole = len(self.workload.dialogues)
        start, stop = 0, self.job.settings.requests.first_judged if self.split == "tune" else whole
        while start < whole:
            yield self.part(start, stop)
            start, stop = stop, 2 * stop

    def run(self, stage: Callable[[Lab, Order], Outcome], order: Order) -> Outcome:
        """What a stage came to for this order: as it is stored, or computed and stored."""
        kind: type[Outcome] = get_type_hints(stage)["return"]
        return self.store.run(stage.__name__, (self.name, order), kind, lambda: stage(self, order))

    @property
    def name(self) -> str:
        """Of what is asked here, for people and for what is kept."""
        return ", ".join(filter(None, (self.split, self.kind)))

    def spec(self, contender: Contender) -> ServingSpec:
        """As something to be served."""
        artifact, settings = contender.artifact, self.job.settings
        return ServingSpec(artifact, contender.at, settings.access, settings.commands.get(artifact.runtime, ()))

    def say(self, text: str) -> None:
        """Tell the user what is being done."""
        self.job.settings.progress(text)
