"""The protocol's own decisions, on a bench without a model: windows from a scripted worker."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from halfwatt.core.errors import BadInput, TaintedRun
from halfwatt.core.settings import MeasurePlan
from halfwatt.dialogues.dialogue import Dialogue, Message
from halfwatt.evaluate import disturbances, energy_analysis, energy_protocol
from halfwatt.evaluate.disturbances import Snapshot
from halfwatt.evaluate.energy_protocol import Arm, measure
from halfwatt.evaluate.requests import Workload
from halfwatt.formats.artifact import Artifact
from halfwatt.meters.base import MeterInfo, Reading, Usage
from halfwatt.meters.discover import Instruments
from halfwatt.meters.modelled import INFO, modelled_joules
from halfwatt.meters.ticks import Clock
from halfwatt.models.sampling import Sampling
from halfwatt.runtimes.base import OperatingPoint
from halfwatt.runtimes.serving_process import RunCounts, ServingSpec
from tests.support.replay_meter import ReplayMeter, Trace

QUIET = Snapshot(0.0, 0.0, 1.0, 0, None, None)


def dialogue(name: str, turns: int) -> Dialogue:
    messages = tuple(Message(role, f"{name} {i}") for i in range(turns) for role in ("user", "assistant"))
    return Dialogue(name, messages)


def spec(tmp_path: object = None) -> ServingSpec:
    from pathlib import Path

    return ServingSpec(Artifact(Path("nowhere"), "none", "f16", 1, 1, 1, "", ()), OperatingPoint())


SLOW = 400


class ScriptedWorker:
    """Answers at once and says what it would have used: ``cpu_s`` a reply."""

    cost: dict[str, float]

    def __init__(self, given: ServingSpec) -> None:
        self.cpu_s = given.artifact.weights_read_b / 1000
        self.used = Usage(0.0, 0.0, 0)
        self.asked: list[tuple[list[str], int]] = []

    def __enter__(self) -> ScriptedWorker:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def run(
        self, prompts: Sequence[Dialogue], sampling: Sampling, *, min_s: float = 0.0, fresh: bool = False
    ) -> RunCounts:
        self.fresh = fresh
        self.asked.append(([p.id for p in prompts], sampling.max_new_tokens))
        n = len(prompts)
        before = self.used
        self.used = Usage(before.cpu_s + n * self.cpu_s, before.wall_s + n * 0.5, before.bytes_b + n)
        return RunCounts((before, self.used), n, n, 0, n, 1, " ".join(p.id for p in prompts))


class TickingMeter:
    """A device-wide counter that is always at a tick."""

    info = MeterInfo("rapl", "cpu package", "measured", "B", "package", "rest", 0.0, 0.0, 0.0)

    def __init__(self) -> None:
        self.joules = 0.0

    def read(self) -> Reading:
        self.joules += 5.0
        return Reading(0.0, self.joules)

    def close(self) -> None:
        return None


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> Callable[[tuple[str, ...]], None]:
    """Scripted workers on a machine that reports the disturbances it is told to report."""
    monkeypatch.setattr(energy_protocol, "ServingProcess", ScriptedWorker)
    monkeypatch.setattr("halfwatt.evaluate.energy_protocol.time.sleep", lambda _: None)
    monkeypatch.setattr(disturbances, "snapshot", lambda: QUIET)

    def report(found: tuple[str, ...]) -> None:
        monkeypatch.setattr(disturbances, "disturbances", lambda *_: found)

    report(())
    return report


def arm(name: str, cpu_ms: int) -> Arm:
    base = spec()
    return Arm(name, replace(base, artifact=replace(base.artifact, weights_read_b=cpu_ms)))


def modelled() -> Instruments:
    """A machine of one core without a counter."""
    return Instruments(None, model=replace(INFO, cores=1))


DIALOGUES = tuple(dialogue(str(i), turns=2) for i in range(6))


def asking(dialogues: tuple[Dialogue, ...] = DIALOGUES, cap: int = 256) -> Workload:
    """These dialogues as a workload; no tokenizer is needed to measure."""
    return Workload(dialogues, None, Sampling(), cap, ())  # type: ignore[arg-type]


def test_arms_are_interleaved_and_mirrored_on_the_same_prompts(quiet: object) -> None:
    plan = MeasurePlan(min_blocks=2, max_blocks=2, window_s=1.0, prefill=False)
    run = measure([arm("A", 40), arm("B", 20), arm("C", 10)], asking(), plan, modelled())
    replies = [w for w in run.windows if w.phase == "reply"]
    assert [w.arm for w in replies] == ["A", "B", "C", "C", "B", "A"] * 2
    halves = [replies[at : at + 3] for at in range(0, 12, 3)]
    asked = [{w.replies_sha256 for w in half} for half in halves]
    assert [len(same) for same in asked] == [1] * 4
    names = [next(iter(same)).split() for same in asked]
    assert sorted(names[0] + names[1] + names[2]) == sorted(list("012345") * 2)  # two replies of each dialogue
    assert all(len(half) == 4 for half in names)
    assert asked[3] == asked[0]  # all were asked: from the start again


def test_modelled_joules_belong_to_the_window_alone(quiet: object) -> None:
    run = measure([arm("A", 40), arm("B", 20)], asking(), MeasurePlan(2, 2, prefill=False), modelled())
    assert (run.meter, run.meters) == (replace(INFO, cores=1), (replace(INFO, cores=1),))
    for w in run.windows:
        cpu_s = w.replies * (0.04 if w.arm == "A" else 0.02)
        joules = energy_analysis.window_joules(w, replace(INFO, cores=1))
        assert joules == pytest.approx(modelled_joules(Usage(cpu_s, w.replies * 0.5, w.replies), 1))
        assert w.readings == {}, "what a model gives is no reading"


def test_prefill_windows_ask_for_one_token(quiet: object) -> None:
    run = measure([arm("A", 40), arm("B", 20)], asking(cap=99), MeasurePlan(2, 2), modelled())
    assert sum(w.phase == "prefill" for w in run.windows) == 4


def test_idle_is_read_only_by_a_real_meter(quiet: object) -> None:
    plan = MeasurePlan(2, 2, prefill=False)
    assert not [w for w in measure([arm("A", 4)], asking(), plan, modelled()).windows if "idle" in w.phase]
    phases = [w.phase for w in measure([arm("A", 4)], asking(), plan, Instruments(TickingMeter())).windows]
    assert phases[:2] == ["bare_idle", "loaded_idle"]
    assert phases[-1] == "loaded_idle"


def test_replayed_joules_say_so(quiet: object) -> None:
    seconds = itertools.count()
    trace = Trace(TickingMeter.info, tuple(Reading(float(s), 5.0 * s) for s in range(100)))
    meter = ReplayMeter(trace, Clock(now=lambda: float(next(seconds))))
    run = measure([arm("A", 4)], asking(), MeasurePlan(2, 2, prefill=False), Instruments(meter))
    result = energy_analysis.measurement("A", run.windows, run.meter)
    assert (result.meter, result.kind, result.grade) == ("replay:rapl", "replayed", "B")


def test_a_disturbed_window_is_repeated_and_stays_on_record(
    quiet: Callable[[tuple[str, ...]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([("foreign CPU load 50%",), ()] + [()] * 50)
    monkeypatch.setattr(disturbances, "disturbances", lambda *_: next(answers))
    run = measure([arm("A", 40), arm("B", 20)], asking(), MeasurePlan(2, 2, prefill=False), modelled())
    thrown = [w for w in run.windows if w.discarded]
    assert len(thrown) == 1
    assert thrown[0].taints == ("foreign CPU load 50%",)
    assert len([w for w in run.windows if not w.discarded]) == 8


def test_a_noisy_machine_ends_a_device_wide_run_and_marks_a_process_wide_one(
    quiet: Callable[[tuple[str, ...]], None],
) -> None:
    quiet(("foreign CPU load 50%",))
    plan = MeasurePlan(2, 2, prefill=False, repeats=3)
    with pytest.raises(TaintedRun, match="foreign CPU load"):
        measure([arm("A", 4)], asking(), plan, Instruments(TickingMeter()))
    run = measure([arm("A", 40), arm("B", 20)], asking(), plan, modelled())
    kept = [w for w in run.windows if not w.discarded]
    assert len(kept) == 8
    assert all(w.taints for w in kept)
    assert any("kept a disturbed window" in e for e in run.events)


def test_one_dialogue_cannot_be_looped(quiet: object) -> None:
    with pytest.raises(BadInput, match="two or more dialogues"):
        measure([arm("A", 4)], asking(DIALOGUES[:1]), MeasurePlan(), modelled())


def test_stops_when_every_ratio_is_narrow(quiet: object) -> None:
    run = measure([arm("A", 40), arm("B", 20)], asking(), MeasurePlan(3, 20, prefill=False), modelled())
    assert max(w.block for w in run.windows) == 2


def test_stops_when_the_time_is_over(quiet: object) -> None:
    plan = MeasurePlan(3, 20, limit_s=0.0, half_width=-1.0, prefill=False)  # never narrow enough
    run = measure([arm("A", 40), arm("B", 20)], asking(), plan, modelled())
    assert max(w.block for w in run.windows) == 2
    longer = measure([arm("A", 40), arm("B", 20)], asking(), replace(plan, limit_s=60.0), modelled())
    assert max(w.block for w in longer.windows) == 19


@pytest.mark.parametrize(("limit_s", "blocks"), [(35.0, 3), (40.0, 4)])
def test_begins_no_block_that_would_end_after_the_time(
    quiet: object, monkeypatch: pytest.MonkeyPatch, limit_s: float, blocks: int
) -> None:
    """Blocks of ten seconds: two models, each asked twice for two seconds and a half."""
    now, answer = [0.0], ScriptedWorker.run

    def slowly(self: ScriptedWorker, *given: Any, **more: Any) -> RunCounts:
        now[0] += 2.5
        return answer(self, *given, **more)

    monkeypatch.setattr(ScriptedWorker, "run", slowly)
    monkeypatch.setattr("halfwatt.evaluate.energy_protocol.time.monotonic", lambda: now[0])
    plan = MeasurePlan(2, 20, limit_s=limit_s, half_width=-1.0, prefill=False)
    run = measure([arm("A", 40), arm("B", 20)], asking(), plan, modelled())
    assert max(w.block for w in run.windows) == blocks - 1


def test_a_continuous_counter_repeats_nothing_and_a_stepping_one_fills_its_window(
    quiet: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []
    run = ScriptedWorker.run

    def noting(
        self: ScriptedWorker,
        prompts: Sequence[Dialogue],
        sampling: Sampling,
        *,
        min_s: float = 0.0,
        fresh: bool = False,
    ) -> RunCounts:
        asked.append(min_s)
        return run(self, prompts, sampling, min_s=min_s, fresh=fresh)

    monkeypatch.setattr(ScriptedWorker, "run", noting)
    plan = MeasurePlan(2, 2, window_s=4.0, limit_s=0.0, prefill=False)
    share = TickingMeter()  # of a host's counter, as a guest sees it, every 200 ms
    share.info = replace(share.info, kind="modelled", grade="D", period_s=0.2)
    monkeypatch.setattr(energy_protocol, "align", lambda meter: meter.read())
    for tools, shortest in ((modelled(), 0.5), (Instruments(TickingMeter()), 10.0), (Instruments(share), 20.0)):
        asked.clear()
        measure([arm("A", 40), arm("B", 20)], asking(), plan, tools)
        assert set(asked) == {0.0, shortest}  # 0 while warming up


def test_what_is_there_for_comparison_leaves_after_the_least_number_of_blocks(quiet: object) -> None:
    """Nothing waits for its ratio to be narrow: only those that decide go on."""
    plan = MeasurePlan(3, 6, half_width=-1.0, prefill=False)
    arms = [replace(arm("B0", 40), context=True), arm("B1", 40), arm("winner", 20)]
    run = measure(arms, asking(), plan, modelled())
    last = {name: max(w.block for w in run.windows if w.arm == name) for name in ("B0", "B1", "winner")}
    assert last == {"B0": 2, "B1": 5, "winner": 5}


@pytest.mark.parametrize(("limit_s", "blocks"), [(200.0, 3), (330.0, 7)])
def test_what_is_there_for_comparison_takes_part_three_times_where_it_takes_long(
    limit_s: float, blocks: int, quiet: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seven blocks of 44 s; a short block without it does not call it back."""
    clock, run = [0.0], ScriptedWorker.run

    def taking_time(self: ScriptedWorker, *given: Any, **more: Any) -> RunCounts:
        clock[0] += 20.0 if self.cpu_s == SLOW / 1000 else 1.0
        return run(self, *given, **more)

    monkeypatch.setattr(ScriptedWorker, "run", taking_time)
    monkeypatch.setattr("halfwatt.evaluate.energy_protocol.time.monotonic", lambda: clock[0])
    plan = MeasurePlan(7, 9, limit_s=limit_s, half_width=-1.0, prefill=False)
    arms = [replace(arm("B0", SLOW), context=True), arm("B1", 40), arm("winner", 20)]
    windows = measure(arms, asking(), plan, modelled()).windows
    assert {w.block for w in windows if w.arm == "B0"} == set(range(blocks))
    assert {w.block for w in windows if w.arm == "B1"} >= set(range(7))


def test_no_block_of_the_least_number_asks_what_another_asked(quiet: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """However fast the models are: what is asked again says nothing new, and its interval would be too narrow."""
    asked: list[tuple[str, ...]] = []
    run = ScriptedWorker.run

    def noting(self: ScriptedWorker, prompts: Sequence[Dialogue], *given: Any, **more: Any) -> RunCounts:
        asked.append(tuple(prompt.id for prompt in prompts))
        return run(self, prompts, *given, **more)

    many = tuple(replace(DIALOGUES[n % len(DIALOGUES)], id=f"d{n}") for n in range(24))
    measuring = asking(many)
    monkeypatch.setattr(ScriptedWorker, "run", noting)
    measure([arm("A", 40), arm("B", 20)], measuring, MeasurePlan(3, 3, window_s=1e6, prefill=False), modelled())
    halves = [frozenset(group) for group in dict.fromkeys(asked) if len(group) not in (1, 4)]  # these warm up
    assert len(halves) == 6
    assert len(frozenset[str]().union(*halves)) == sum(map(len, halves)) == 24
