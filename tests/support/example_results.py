"""A whole `Result` made in code: plausible windows with noise and drift, and every figure derived from them.

results.make("modelled")            a server without meters: grade E, PASS
results.make("measured")            the same on a machine with RAPL: grade B, idle measured
results.make("none")                no energy number at all: grade F
results.make(verdict="FAIL")        any other end
"""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Literal

from halfwatt.core.estimate import Estimate
from halfwatt.core.settings import Margins
from halfwatt.dialogues.dialogue import Dialogue, Message
from halfwatt.evaluate import energy_analysis
from halfwatt.evaluate.claim import make_claim
from halfwatt.evaluate.records import (
    ClaimVerdict,
    GateCheck,
    Outside,
    Phase,
    Profile,
    QualityInputs,
    QualityReport,
    ScoredReply,
    Verdict,
    Window,
)
from halfwatt.formats.artifact import Artifact, Parity, Part
from halfwatt.meters.base import Finding, MeterInfo, Reading, Usage
from halfwatt.meters.cost import Cost
from halfwatt.models.lineage import KeptLayer
from halfwatt.results.payback import ledger
from halfwatt.results.provenance import Provenance
from halfwatt.results.result import SCHEMA, Baselines, Example, Raw, Result
from halfwatt.runtimes.base import OperatingPoint
from halfwatt.search.trial import Served, Trial, TrialReadings

Energy = Literal["modelled", "measured", "none"]

MODELLED = MeterInfo(
    name="modelled",
    domain="process under test",
    kind="modelled",
    grade="E",
    covers="CPU-seconds, wall time and bytes moved of the process under test",
    not_covered="idle, other processes, power supply losses",
    period_s=0.0,
    step_j=0.0,
    ratio_error=0.5,
    cores=4,
)
RAPL = MeterInfo(
    name="rapl",
    domain="cpu package 0 + dram 0",
    kind="measured",
    grade="B",
    covers="CPU package 0 and its DRAM",
    not_covered="board, fans, disks, power supply losses",
    period_s=0.001,
    step_j=0.000061,
    ratio_error=0.0,
)
UNAVAILABLE = (
    Finding("rapl:package-0", "cpu package 0", "B", "CPU package", False, "no /sys/class/powercap here: a guest"),
    Finding("nvml", "gpu board", "B", "GPU board", False, "no NVIDIA driver; pip install nvidia-ml-py on one"),
    Finding("battery", "whole system", "A", "whole system", False, "no battery in /sys/class/power_supply"),
)
# CPU-s/reply, s/reply, tokens/reply, CPU-s of the prefill, W while working
ARMS = {
    "B0": (0.507, 0.131, 28.1, 0.061, 46.0),
    "B1": (0.0442, 0.0446, 28.1, 0.0165, 24.0),
    "int8": (0.0345, 0.0349, 28.0, 0.0128, 23.4),
    "int4 + int8 head": (0.0236, 0.0239, 28.2, 0.0091, 22.6),
    "int4": (0.0221, 0.0223, 28.4, 0.0084, 22.4),
    "int6": (0.0301, 0.0305, 28.1, 0.0117, 23.0),
}
IDLE_W = 11.5
SIZES = {"B0": 33.6e6, "B1": 34.1e6, "int8": 18.3e6, "int4 + int8 head": 12.0e6, "int4": 9.9e6, "int6": 14.1e6}
LOSSES = {"int8": 0.0002, "int4 + int8 head": 0.0071, "int4": 0.0118}


def make(energy: Energy = "modelled", verdict: ClaimVerdict = "PASS", seed: int = 0) -> Result:
    """A result that ends with ``verdict``; NO PROVEN SAVING means that no candidate was better than B1."""
    info = {"modelled": MODELLED, "measured": RAPL, "none": None}[energy]
    meters = () if info is None else (info,)
    rng = random.Random(seed)
    about = "B1" if verdict == "NO PROVEN SAVING" else "int4"
    windows = _final_windows(about, info, rng)
    report = _report("test", "PASS" if verdict == "NO PROVEN SAVING" else verdict, LOSSES.get(about, 0.0))
    claim = make_claim(windows, info, report, about)
    assert claim.verdict == verdict
    final = tuple(energy_analysis.measurement(arm, windows, info) for arm in ("B0", "B1", "winner"))
    candidates = [_candidate(name, info, rng) for name in LOSSES]
    b1 = replace(_trial("B1", OperatingPoint(1, 4)), energy=final[1])
    rejected, rejected_readings = _rejected(info, rng)
    result = Result(
        schema=SCHEMA,
        provenance=_provenance(),
        meters=meters,
        unavailable=UNAVAILABLE,
        baselines=Baselines(replace(_trial("B0", OperatingPoint(reuse_prefix=False)), energy=final[0]), b1),
        trials=(*(trial for trial, _ in candidates), _failed(), rejected),
        winner=about if verdict == "PASS" else "B1",
        winner_path="winner",
        final=final,
        final_quality=report,
        claim=claim,
        margins=Margins(),
        raw=Raw(
            windows,
            _inputs(),
            ("<|im_start|>", "<|im_end|>"),
            (*(read for _, read in candidates), TrialReadings("int2", (), None), rejected_readings),
        ),
        events=("B0: warm-up of 7 passes, first 0.412, last 0.131 s/reply",),
        examples=examples(),
        profile=Profile(750, 2.4, (96.0, 310.0), 0.41, (17.0, 62.0)),
        outside=() if about == "B1" else (Outside("service", _report("outside: service", "FAIL", 2.1), _inputs()),),
        took=Cost(wall_s=1700.0, cpu_s=2500.0),
    )
    return replace(result, repaid=ledger(about, result.trials, final, result.took, None))


def trained(result: Result, training: Cost) -> Result:
    """The same result, its int8 and int4 candidates trained at this cost."""

    def with_cost(trial: Trial) -> Trial:
        spent = (training,) if trial.name in ("int8", "int4") else ()
        return trial if trial.artifact is None else replace(trial, artifact=replace(trial.artifact, spent=spent))

    return replace(result, trials=tuple(map(with_cost, result.trials)))


def examples() -> tuple[Example, ...]:
    """Three prompts, the second of them hostile to a page that does not escape."""
    home = (Message("user", "Hey is the attic door lock unlocked or what"),)
    service = (
        Message("user", "I want to make a restaurant reservation for 2 people at half past 11 in the morning."),
        Message("assistant", "What city do you want to dine in? Do you have a preferred restaurant?"),
        Message("user", "Please find restaurants in San Jose. Can you try Sino?"),
    )
    hostile = (Message("user", "<script>alert('user')</script> & <img src=x onerror=alert(1)>"),)
    return (
        Example(
            Dialogue("home-1", home),
            "The attic door lock is currently unlocked.",
            "The attic door lock is currently unlocked.",
        ),
        Example(
            Dialogue("sgd-1", service),
            "Confirming: I will reserve a table for 2 people at Sino in San Jose. The reservation time is 11:30 am.",
            "Please confirm: a table for 2 at Sino in San Jose today at 11:30 am.",
        ),
        Example(
            Dialogue("bad-1", hostile),
            "</div></style><script src='http://evil.example/x.js'></script>",
            '"><svg onload=alert(2)> {{ 7 * 7 }} [red]not markup[/red]',
        ),
    )


# --- windows ----------------------------------------------------------------------------------------------------------


def _final_windows(about: str, info: MeterInfo | None, rng: random.Random) -> tuple[Window, ...]:
    served = {"B0": "B0", "B1": "B1", "winner": about}
    clock = _Clock(info, rng)
    clock.idle("bare_idle")
    clock.idle("loaded_idle")
    for block in range(7):
        for arm in (*served, *reversed(served)):
            if (arm, block) == ("B1", 3):
                clock.work(arm, served[arm], block, "reply", taint="foreign CPU load 12% of the machine")
            clock.work(arm, served[arm], block, "reply")
        for arm in served:
            clock.work(arm, served[arm], block, "prefill")
    clock.idle("loaded_idle")
    return tuple(clock.windows)


def _tune_windows(name: str, info: MeterInfo | None, rng: random.Random) -> tuple[Window, ...]:
    clock = _Clock(info, rng)
    for block in range(4):
        for arm in ("B1", name, name, "B1"):
            clock.work(arm, arm, block, "reply")
    return tuple(clock.windows)


class _Clock:
    """Time, joules and CPU-seconds that go up as work is done."""

    def __init__(self, info: MeterInfo | None, rng: random.Random) -> None:
        self.info, self.rng = info, rng
        self.now_s, self.joules, self.windows = 1000.0, 5000.0, list[Window]()

    def idle(self, phase: Phase) -> None:
        if self.info is None or self.info.kind == "modelled":
            return
        self._window("", -1, phase, 10.0, IDLE_W, Usage(0.0, 0.0, 0), 0, 0, "")

    def work(self, arm: str, kind: str, block: int, phase: Phase, taint: str = "") -> None:
        cpu_s, wall_s, tokens, prefill_s, watts = ARMS[kind]
        replies = max(8, round((10 if self.info is RAPL else 2) / wall_s / 10) * 10)
        drift = 1 + 0.004 * (self.now_s - 1000) / 600
        noise = drift * self.rng.gauss(1.0, 0.008) * (1.22 if taint else 1.0)
        share = prefill_s / cpu_s if phase == "prefill" else 1.0
        used = Usage(cpu_s * share * noise * replies, wall_s * share * noise * replies, int(SIZES[kind]) * 28 * replies)
        out = replies if phase == "prefill" else round(tokens * replies)
        self._window(arm, block, phase, used.wall_s, watts, used, replies, out, taint)

    def _window(
        self,
        arm: str,
        block: int,
        phase: Phase,
        seconds: float,
        watts: float,
        used: Usage,
        replies: int,
        tokens_out: int,
        taint: str,
    ) -> None:
        start, before = self.now_s, self.joules
        self.now_s += seconds
        self.joules += watts * seconds
        readings = {}
        if self.info is RAPL:
            readings[self.info.name] = (Reading(start, before), Reading(self.now_s, self.joules))
        self.windows.append(
            Window(
                arm=arm,
                block=block,
                phase=phase,
                start_s=start,
                end_s=self.now_s,
                readings=readings,
                usage=(Usage(0.0, 0.0, 0), used),
                replies=replies,
                tokens_in=59 * replies,
                tokens_out=tokens_out,
                taints=(taint,) if taint else (),
                discarded=bool(taint),
            )
        )
        self.now_s += 0.4


# --- trials and gate --------------------------------------------------------------------------------------------------


def _trial(name: str, at: OperatingPoint) -> Trial:
    kept = (
        KeptLayer("model.norm.weight", "f32", "a vector: too small to matter"),
        *(KeptLayer(f"model.layers.{i}.mlp.down_proj", "int8", "5.5 bits would not divide") for i in range(5)),
    )
    artifact = Artifact(
        path=Path("/somewhere/out/artifacts") / name,
        runtime="torch_eager" if name == "B0" else "llamacpp",
        precision={"B0": "bf16", "B1": "bf16"}.get(name, name),
        size_b=int(SIZES[name]),
        weights_read_b=int(SIZES[name] * 0.9),
        kv_b_per_token=4096,
        sha256="ab" * 32,
        lineage=("demo",),
        kept=() if name.startswith("B") else kept,
        parts=_parts(int(SIZES[name] * 0.9)),
        spent=(Cost(tokens=2_100_000, wall_s=700.0, cpu_s=1400.0, bytes_b=10**12),) if name == "int4" else (),
    )
    ways = (Served(at, 0.92), Served(OperatingPoint(1, 1), 1.0), Served(OperatingPoint(2, 2), 1.31))
    return Trial(name, (), "done", None, artifact, at, None, None, tried=ways)


def _parts(read_b: int) -> tuple[Part, ...]:
    shares = {"block 0, attention": 0.2, "block 0, FFN": 0.3, "head": 0.5}
    return tuple(Part(part, "int4", int(share * read_b), int(share * read_b)) for part, share in shares.items())


def _candidate(name: str, info: MeterInfo | None, rng: random.Random) -> tuple[Trial, TrialReadings]:
    windows = _tune_windows(name, info, rng)
    trial = replace(
        _trial(name, OperatingPoint(1, 1)),
        energy=energy_analysis.measurement(name, windows, info),
        quality=_report("tune", "PASS" if name == "int8" else "INCONCLUSIVE", LOSSES[name] * 1.1),
        cpu_s_ratio_vs_B1=energy_analysis.ratio("B1", name, windows, energy_analysis.cpu_s_per_reply),
        energy_ratio_vs_B1=energy_analysis.energy_ratio("B1", name, windows, info),
    )
    return trial, TrialReadings(name, windows, None)


def _failed() -> Trial:
    reason = "bits are 8 or 4 (found: 2)"
    return Trial("int2", (), "failed", reason, None, OperatingPoint(), None, None)


def _rejected(info: MeterInfo | None, rng: random.Random) -> tuple[Trial, TrialReadings]:
    """Given up after a glance: it has windows, and no figures of its own."""
    reason = "saves 1.47 [1.44, 1.5] x where the best so far saves 2 [1.98, 2.02] x"
    trial = replace(_trial("int6", OperatingPoint(1, 1)), status="rejected", reason=reason)
    return trial, TrialReadings("int6", _tune_windows("int6", info, rng), None)


def _report(split: str, verdict: Verdict, loss: float) -> QualityReport:
    n = 400
    worse = {"PASS": 0.0, "FAIL": 0.03, "INCONCLUSIVE": 0.006}[verdict]
    nll = Estimate(loss + worse, loss + worse - 0.004, loss + worse + 0.004, "nats/token", n)
    needed = 640 if verdict == "INCONCLUSIVE" else None
    remark = f"needs about {needed} dialogues" if needed else ""
    exact = ("tensors are finite", "token ids as the reference's", "template as the reference's")
    checks = (
        *(GateCheck("G0", name, "PASS", None, "exact", "KL 2e-06 over 4100 tokens") for name in exact),
        GateCheck("G1", "likelihood", verdict, nll, "upper bound < ln 1.02 = 0.0198", remark, needed),
        _check("G2", "stopping at true ends", (-0.012, -0.025, 0.001, "nats"), "lower bound > -0.1"),
        _check("G3", "failures", (0.001, -0.004, 0.007, "share"), "upper bound < 2%"),
        _check("G4", "length", (1.008, 0.99, 1.026, "x"), "length ratio within 0.9 and 1.05"),
        _check("G5", "chrF to the human reply", (-0.009, -0.021, 0.003, "share"), "lower bound > -5%"),
        _check("G6", "facts not carried", (0.004, -0.012, 0.02, "share"), "upper bound < 5%"),
        _check("G7", "fits another dialogue", (0.006, -0.012, 0.024, "share"), "upper bound < 5%"),
    )
    return QualityReport(split, verdict, checks, n, 1312, 0, 0.0214, 0.941)


def _check(layer: str, name: str, figure: tuple[float, float, float, str], margin: str) -> GateCheck:
    mean, lo, hi, unit = figure
    return GateCheck(layer, name, "PASS", Estimate(mean, lo, hi, unit, 400), margin, "")


def _inputs() -> QualityInputs:
    parity = Parity(64, 4100, True, True, True, True, 2e-6, 4e-5, 0.9998)
    reply = ScoredReply("home-1", 1, None, "Unlocked.", 4, True, 256, "It is unlocked.")
    return QualityInputs(parity, (), (reply,), (reply,))


def _provenance() -> Provenance:
    return Provenance(
        halfwatt="0.1.0",
        created="2026-11-23T16:42:00+00:00",
        command="halfwatt optimize demo -o out/demo",
        seed=0,
        model="demo",
        model_sha256="c0ffee" * 10 + "abcd",
        dialogues="demo",
        dialogues_sha256={"train": "11" * 32, "tune": "22" * 32, "test": "33" * 32},
        machine={"cpu": "AMD EPYC 7B13", "cores": "4", "memory_gib": "15.6", "kernel": "6.1.0", "virtual": "yes"},
        versions={"python": "3.11.2", "torch": "2.13.0+cpu", "llama-cpp-python": "0.3.36"},
    )
