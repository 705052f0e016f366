"""A store of stages whose outcomes are given, and runs whose costs are: a search without waiting for anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from halfwatt.evaluate.energy_protocol import Run
from halfwatt.evaluate.records import TeacherScore, Window
from halfwatt.meters.base import Usage
from halfwatt.search.stage_store import StageStore
from halfwatt.search.stages import MeasureOrder

T = TypeVar("T")
Script = Mapping[str, Callable[[Any], Any]]


class ScriptedStore(StageStore):
    """Stages named in ``script`` are not run: the script says what they come to. ``computed`` lists all that were not
    found on disk; ``interrupt``: a stage at which the process "dies", and the how manieth of its kind."""

    def __init__(self, folder: Path, script: Script | None = None, interrupt: tuple[str, int] | None = None) -> None:
        super().__init__(folder, {})
        self.script, self.interrupt = script or {}, interrupt
        self.computed: list[str] = []

    def run(self, stage: str, order: Any, kind: type[T], compute: Callable[[], T]) -> T:
        """As scripted, or as it is."""

        def scripted() -> T:
            if self.interrupt == (stage, 1 + self.computed.count(stage)):
                raise KeyboardInterrupt
            outcome: T = self.script[stage](order[1]) if stage in self.script else compute()
            self.computed.append(stage)
            return outcome

        return super().run(stage, order, kind, scripted)


def run_of(costs: Mapping[str, float]) -> Run:
    """Three blocks of windows in which a reply of each arm takes so many CPU-seconds, give or take one in a hundred."""
    windows = [
        Window(
            arm=arm,
            block=block,
            phase="reply",
            start_s=0.0,
            end_s=1.0,
            readings={},
            usage=(Usage(0.0, 0.0, 0), Usage(10 * cost_s * jitter, 10 * cost_s, 1000)),
            replies=10,
            tokens_in=100,
            tokens_out=100,
            passes=1,
        )
        for block, jitter in enumerate((0.99, 1.0, 1.01))
        for arm, cost_s in costs.items()
    ]
    return Run(tuple(windows), None, (), ())


def saves(times: float) -> Callable[[MeasureOrder], Run]:
    """Measured beside the first contender, every other takes so many times less."""

    def outcome(order: MeasureOrder) -> Run:
        first, *others = (contender.name for contender in order.contenders)
        return run_of({first: 1.0} | {name: (1.0 + 0.001 * n) / times for n, name in enumerate(others)})

    return outcome


def equal_likelihoods(_: object) -> tuple[TeacherScore, ...]:
    """A candidate to which the human replies are as likely as to the reference."""
    return tuple(
        TeacherScore(
            dialogue=f"d{n}",
            tokens=20 + n,
            nll_ref=40.0,
            nll_cand=40.0,
            ends=2,
            log_p_eos_ref=-1.0,
            log_p_eos_cand=-1.0,
            elsewhere=18,
            p_eos_ref=1.0,
            p_eos_cand=1.0,
            kl=0.0,
            kl_max=0.0,
            top1_same=20,
        )
        for n in range(8)
    )
