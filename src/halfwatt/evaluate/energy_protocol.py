"""THE measuring protocol. One function owns the windows; nothing else reads a meter around work.

    open meters ─ bare idle ─ load every arm, each in its own process ─ warm up until flat ─ loaded idle
       block 1:  A B C   C B A   mirrored, so that drift cancels; a half asks every arm the same, in whole passes,
                                 of dialogues drawn at random, short and long ones in the shares of the whole
       block 2:  A B C   C B A   other prompts
       ...                       until the interval of every ratio that decides is narrow enough, or the limit
    loaded idle ─ close

    one window:  wait for a tick │ read │ worker runs, harness sleeps │ wait for a tick │ read │ was it disturbed?

A disturbed window is discarded and repeated; the discarded ones stay in the record with their reasons. A meter of the
whole device cannot tell our joules from foreign ones, so there a window that stays disturbed ends the run. CPU-seconds
and the energy modelled from them belong to the process under test alone, so there it is kept, with its reasons.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle
from statistics import fmean

from halfwatt.core.errors import BadInput, TaintedRun
from halfwatt.core.settings import MeasurePlan
from halfwatt.core.types import Progress
from halfwatt.dialogues.dialogue import Dialogue
from halfwatt.evaluate import disturbances, energy_analysis
from halfwatt.evaluate.records import Phase, Window
from halfwatt.evaluate.requests import Workload, balanced_chunks, prompts_of
from halfwatt.meters.base import MeterInfo, Reading, Usage, align
from halfwatt.meters.discover import Instruments
from halfwatt.models.sampling import Sampling
from halfwatt.runtimes.serving_process import RunCounts, ServingProcess, ServingSpec

_CONTEXT_BLOCKS = 3  # two give no interval worth the name: t is 12.7 there, 4.3 here
_WARM_S = 10.0  # of work before the first window
_SHORTEST_S = 0.5  # 50 ticks of the kernel's clock a core, by which foreign load is told


@dataclass(frozen=True, slots=True)
class Arm:
    """One thing to measure: a name and what its worker loads. context: nothing is decided by it, so it takes part in
    the least number of blocks only, in `_CONTEXT_BLOCKS` where those would take longer than the limit, and its
    interval is as wide as it is then."""

    name: str
    spec: ServingSpec
    context: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """All windows of one measuring run, discarded ones too, and what happened."""

    windows: tuple[Window, ...]
    meter: MeterInfo | None  # the meter that the joules come from
    meters: tuple[MeterInfo, ...]  # every meter that was read
    events: tuple[str, ...]


def measure(
    arms: Sequence[Arm],
    workload: Workload,
    plan: MeasurePlan,
    tools: Instruments,
    progress: Progress = lambda _: None,
) -> Run:
    """Measure all arms interleaved, on the replies to ``workload``.

    Raises:
        BadInput: fewer than two dialogues (a single one would be answered from its own cache when looped).
        TaintedRun: a device-wide meter, and no clean window within the allowed repeats.
        MeterError: the meter failed; no number is made up for it.
    """
    dialogues, sampling = workload.dialogues, workload.greedy
    if len(dialogues) < 2:
        raise BadInput("measuring needs two or more dialogues", got=str(len(dialogues)))
    recorder = _Recorder(plan, tools, progress, workload.seed, fresh=workload.of_two_kinds)
    with ExitStack() as stack:
        recorder.idle("bare_idle")
        for arm in arms:
            progress(f"loading {arm.name}")
            recorder.workers[arm.name] = stack.enter_context(ServingProcess(arm.spec))
        prompts = prompts_of(dialogues)
        others = sum(map(len, prompts)) / (2 * plan.min_blocks)  # no block of the least number asks what another asked
        replies = min(recorder.window_s / recorder.warm_up(dialogues, sampling), others)
        draw = random.Random(workload.seed)
        chunks = cycle(balanced_chunks(prompts, replies, draw, by_source=workload.of_two_kinds))
        recorder.idle("loaded_idle")
        start_s, decisive, longest_s = time.monotonic(), [arm.name for arm in arms if not arm.context], 0.0
        for block in range(plan.max_blocks):
            block_start_s = time.monotonic()
            slow = longest_s * plan.min_blocks > plan.limit_s
            context = block < (min(_CONTEXT_BLOCKS, plan.min_blocks) if slow else plan.min_blocks)
            names = [arm.name for arm in arms] if context else decisive
            recorder.block(block, names, (next(chunks), next(chunks)), sampling)
            now_s = time.monotonic()
            longest_s = max(longest_s, now_s - block_start_s)
            late = now_s - start_s + (now_s - block_start_s) > plan.limit_s  # another as long would end too late
            if block + 1 >= plan.min_blocks and (late or recorder.narrow_enough(decisive)):
                break
        recorder.idle("loaded_idle")
    return Run(tuple(recorder.windows), tools.info, tools.infos, tuple(recorder.events))


class _Recorder:
    """Reads the windows of one run and keeps them with what happened."""

    def __init__(
        self, plan: MeasurePlan, tools: Instruments, progress: Progress, seed: int, *, fresh: bool = False
    ) -> None:
        """fresh: each pass over a window's prompts begins with empty caches"""
        self._fresh = fresh
        self.plan, self.tools, self.progress = plan, tools, progress
        self.workers: dict[str, ServingProcess] = {}
        self.windows: list[Window] = []
        self.events: list[str] = []
        self._repeats_left = plan.repeats
        self._random = random.Random(seed)

    @property
    def window_s(self) -> float:
        """Of the slowest arm: 10 s and 100 updates at least for a counter that steps, else the plan's."""
        if self.tools.primary is None:
            return self.plan.window_s
        return max(self.plan.window_s, 10.0, 100 * self.tools.primary.info.period_s)

    @property
    def shortest_s(self) -> float:
        """Of any arm. Without a counter no repeats of the same replies are needed: other replies say more."""
        return min(self.plan.window_s, _SHORTEST_S) if self.tools.primary is None else self.window_s

    def warm_up(self, dialogues: Sequence[Dialogue], sampling: Sampling) -> float:
        """Run every arm until its pace is flat; returns seconds per reply of the slowest."""
        few = [prompts[0] for prompts in prompts_of(dialogues[:4])]
        paces = []
        for name, worker in self.workers.items():
            self.progress(f"warming up {name}")
            pace = _until_flat(partial(worker.run, sampling=sampling), few)
            first, last = pace[0], pace[-1]
            self.events.append(f"{name}: warm-up of {len(pace)} passes, first {first:.3f}, last {last:.3f} s/reply")
            paces.append(last)
        return max(paces)

    def idle(self, phase: Phase) -> None:
        """Read the power of doing nothing; only a real meter can."""
        if self.tools.primary is None:
            return
        self.progress(phase.replace("_", " "))
        self._keep_clean(lambda: self._window("", -1, phase, self._rest))

    def block(self, index: int, names: Sequence[str], halves: Sequence[Sequence[Dialogue]], sampling: Sampling) -> None:
        """The arms in order on one half of the prompts, mirrored on the other; then once over the first's prefills."""
        self.progress(f"block {index + 1}")
        for prompts, order in zip(halves, (names, names[::-1]), strict=True):
            for name in order:
                self._work(name, index, "reply", prompts, sampling)
        if self.plan.prefill:
            for name in names if index % 2 == 0 else reversed(names):
                self._work(name, index, "prefill", halves[0], replace(sampling, max_new_tokens=1))

    def narrow_enough(self, names: Sequence[str]) -> bool:
        """Is every ratio against the last arm known to the planned half-width?"""
        info = self.tools.info
        figure = energy_analysis.cpu_s_per_reply if info is None else energy_analysis.joules(info)
        ratios = (energy_analysis.ratio(name, names[-1], self.windows, figure) for name in names[:-1])
        return all(math.log(ratio.hi / ratio.lo) / 2 <= self.plan.half_width for ratio in ratios)

    def _work(self, name: str, block: int, phase: Phase, prompts: Sequence[Dialogue], sampling: Sampling) -> None:
        work = partial(self.workers[name].run, prompts, sampling, min_s=self.shortest_s, fresh=self._fresh)
        self._keep_clean(lambda: self._window(name, block, phase, work))

    def _rest(self) -> RunCounts:
        time.sleep(max(self.plan.idle_s, self.window_s))
        return RunCounts((Usage(0.0, 0.0, 0), Usage(0.0, 0.0, 0)), 0, 0, 0, 0, 0, "")

    def _keep_clean(self, read_window: Callable[[], Window]) -> None:
        """Repeat a disturbed window while repeats are left."""
        while (window := read_window()).taints and self._repeats_left > 0:
            self._repeats_left -= 1
            self.windows.append(replace(window, discarded=True))
            self.events.append(f"discarded a window of {window.arm or window.phase}: {'; '.join(window.taints)}")
        if window.taints:
            why = "; ".join(window.taints)
            if self.tools.primary is not None:
                hint = "quiet the machine, then run the same command again"
                raise TaintedRun(f"windows stay disturbed: {why}", hint=hint)
            self.events.append(f"kept a disturbed window of {window.arm}: {why}")
        self.windows.append(window)

    def _window(self, arm: str, block: int, phase: Phase, work: Callable[[], RunCounts]) -> Window:
        """Read, run, read."""
        if self.tools.primary is not None:  # part-time sensing: do not start all windows at the same phase of it
            time.sleep(self._random.random() * self.tools.primary.info.period_s)
        before, harness_s = disturbances.snapshot(), time.process_time()
        start_readings, start_s = self._edge(), time.monotonic()
        counts = work()
        end_readings, end_s = self._edge(), time.monotonic()
        after, harness_s = disturbances.snapshot(), time.process_time() - harness_s
        own_cpu_s = (counts.usage[1] - counts.usage[0]).cpu_s + harness_s
        return Window(
            arm=arm,
            block=block,
            phase=phase,
            start_s=start_s,
            end_s=end_s,
            readings={name: (start_readings[name], end_readings[name]) for name in start_readings},
            usage=counts.usage,
            replies=counts.replies,
            tokens_in=counts.tokens_in,
            tokens_cached=counts.tokens_cached,
            tokens_out=counts.tokens_out,
            passes=counts.passes,
            replies_sha256=counts.replies_sha256,
            taints=disturbances.disturbances(before, after, own_cpu_s),
        )

    def _edge(self) -> dict[str, Reading]:
        """All meters, the primary one at a tick of its counter."""
        readings = {meter.info.name: meter.read() for meter in self.tools.others}
        if self.tools.primary is not None:
            readings[self.tools.primary.info.name] = align(self.tools.primary)
        return readings


def _until_flat(run: Callable[[Sequence[Dialogue]], RunCounts], prompts: Sequence[Dialogue]) -> list[float]:
    """Seconds per reply of each pass, until the slope over the last five is below 1 % a pass, twelve were made, or some
    that took long: what warms up, clocks and caches, has done so within seconds of work. The first is of one reply,
    which may take a minute."""
    pace, spent_s = list[float](), 0.0
    while len(pace) < 12 and spent_s < _WARM_S:
        counts = run(prompts if pace else prompts[:1])
        pass_s = (counts.usage[1] - counts.usage[0]).wall_s
        pace.append(pass_s / counts.replies)
        spent_s += pass_s
        last = pace[-5:]
        if len(last) == 5 and abs(last[-1] - last[0]) / 4 < 0.01 * fmean(last):
            break
    return pace
