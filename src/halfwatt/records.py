"""The frozen records that pass between the rooms and into ``result.json``.

Raw readings (`Reading`, `Window`, `TeacherScore`, `ScoredReply`) are stored as they were read; everything else in a
result can be computed from them again (`halfwatt verify` does). Units are in the names: ``_s`` seconds, ``_j`` joules,
``_b`` bytes. What was not measured is ``None``, never 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from halfwatt.estimate import Estimate

SCHEMA = 1

Grade = Literal["A", "B", "C", "D", "E", "F"]
"""Where a number came from: A wall meter or battery, B hardware counter, C integrated power samples,
D model calibrated on this device, E generic model (ratios only), F no energy number at all."""

Kind = Literal["measured", "modelled", "replayed"]
Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE"]
ClaimVerdict = Literal["PASS", "FAIL", "INCONCLUSIVE", "NO PROVEN SAVING"]
Phase = Literal["bare_idle", "loaded_idle", "reply", "prefill"]


@dataclass(frozen=True, slots=True)
class MeterInfo:
    """What a meter is and what its joules stand for."""

    name: str  # unique among the meters of this machine: "rapl:package-0", "nvml:0", "modelled"
    domain: str  # "cpu package 0", "gpu 0 board", "whole system"
    kind: Kind
    grade: Grade
    covers: str  # in words, for people
    not_covered: str
    period_s: float  # time between two updates of the counter; 0 = continuous
    step_j: float  # smallest change of the counter; 0 = continuous
    ratio_error: float  # systematic 95 % error of a ratio of two readings of this meter: 0.5 = +-50 %; 0 = it cancels


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at a cumulative counter: monotonic seconds and joules that never fall."""

    t_s: float
    joules: float


@dataclass(frozen=True, slots=True)
class Usage:
    """Cumulative use of the machine by the process under test."""

    cpu_s: float  # user + system, all threads
    wall_s: float  # time spent inside windows' work
    bytes_b: int  # weight and KV bytes that the replies had to read, computed from the format


@dataclass(frozen=True, slots=True)
class Spent:
    """What training has used so far, over all its sittings. Energy is None where no meter measures it."""

    tokens: int = 0  # padding included
    wall_s: float = 0.0
    cpu_s: float = 0.0
    bytes_b: int = 0  # of weights and optimizer state, computed from their sizes
    joules: float | None = None
    meter: str | None = None  # where the joules come from; this process's device only
    device: str | None = None  # where it was trained, "cpu" or "cuda"; None = not told


@dataclass(frozen=True, slots=True)
class Origin:
    """How a model was made, oldest first, and what each training in it has used; ``halfwatt.json`` in its folder."""

    lineage: tuple[str, ...]
    spent: tuple[Spent, ...] = ()


@dataclass(frozen=True, slots=True)
class Speculation:
    """Tokens guessed ahead, which the model checks in one pass; what it says stays what it would have said."""

    kind: Literal["table", "lookup"]  # an n-gram table made by the step `draft`, or what stood in the dialogue before
    longest: int = 4  # tokens of a draft
    least: float = 0.5  # table: probability that a whole draft is right


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """How a runtime serves the artifact; as much a part of the recipe as the bits are."""

    threads: int | None = None  # decode threads; None = the runtime's own default (B0)
    threads_prefill: int | None = None
    batch: int = 1
    kv_bits: Literal[16, 8, 4] = 16
    reuse_prefix: bool = True  # keep the KV cache of the turns before
    speculation: Speculation | None = None


@dataclass(frozen=True, slots=True)
class Served:
    """An operating point that was tried, and what a reply took there, as a share of what it takes on one thread."""

    at: OperatingPoint
    share: float  # of CPU-seconds, or of joules where they are measured


@dataclass(frozen=True, slots=True)
class Profile:
    """What a model is asked: the workload behind figures per reply. Pairs are the median and the 95th percentile."""

    dialogues: int
    replies_per_dialogue: float  # asked for, at most four
    prompt_tokens: tuple[float, float]  # the whole conversation so far
    repeated: float  # share of the prompts' tokens that the turn before had already
    human_reply_tokens: tuple[float, float]
    users: int = 1  # who ask at once
    replies_per_hour: float | None = None  # as the user says; None = unknown


@dataclass(frozen=True, slots=True)
class Sampling:
    """How reply tokens are chosen. ``temperature`` 0 = greedy."""

    temperature: float = 0.0
    top_k: int = 0  # 0 = off
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    max_new_tokens: int = 256
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply as the runtime gave it. ``tokens_cached`` of the ``tokens_in`` came from the KV cache."""

    text: str
    token_ids: tuple[int, ...]  # the stop token is included when it was produced
    tokens_in: int
    tokens_cached: int
    stopped: bool  # True: a stop token ended it; False: the cap did


@dataclass(frozen=True, slots=True)
class KeptLayer:
    """A tensor that stayed at higher precision, and why."""

    tensor: str
    kept_as: str
    reason: str


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a network in a file: what one decode step reads of it."""

    name: str  # "embedding", "block 3, FFN", "head"
    precision: str  # of its matrices: "int4", "int4/int8"
    size_b: int
    read_b: int


@dataclass(frozen=True, slots=True)
class Artifact:
    """A model in the form in which one runtime serves it; written as ``artifact.json`` in its folder."""

    path: Path  # the folder
    runtime: str  # Runtime.name
    precision: str  # "bf16", "f16", "int8", "int4+int8 head", "int4+int8 embedding"
    size_b: int  # bytes of the weights on disk
    weights_read_b: int  # bytes of weights that one decode step reads (input-embedding row not counted)
    kv_b_per_token: int  # bytes of KV cache that one token of context adds at 16 bits
    sha256: str
    lineage: tuple[str, ...]  # how it was made, oldest first
    kept: tuple[KeptLayer, ...] = ()
    context: int | None = None  # the longest context the model was made for, in tokens
    spent: tuple[Spent, ...] = ()  # by each training in its lineage
    parity: Parity | None = None
    draft: str | None = None  # sha256 of its table of drafts; None = it has none
    parts: tuple[Part, ...] = ()  # in the order of a pass


@dataclass(frozen=True, slots=True)
class Made:
    """A model folder that a step wrote."""

    path: Path
    parameters: tuple[int, int]  # before and after; tied ones count once
    lineage: tuple[str, ...]
    spent: tuple[Spent, ...]  # by each training in its lineage


@dataclass(frozen=True, slots=True)
class Parity:
    """Exported runtime against the in-memory model that was exported (gate G0)."""

    dialogues: int
    tokens: int
    token_ids_equal: bool
    template_equal: bool
    eos_equal: bool
    finite: bool
    kl_mean: float
    kl_max: float
    top1: float  # share of tokens where both prefer the same; near ties of the model in memory count as the same
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Window:
    """One energy window: whole replies of one arm, with the raw counters at both edges."""

    arm: str
    block: int
    phase: Phase
    start_s: float  # monotonic
    end_s: float
    readings: dict[str, tuple[Reading, Reading]]  # meter name -> (at the start edge, at the end edge)
    usage: tuple[Usage, Usage]  # of the process under test, at the same edges
    replies: int = 0
    tokens_in: int = 0
    tokens_cached: int = 0
    tokens_out: int = 0
    passes: int = 0  # whole passes over the block's prompts
    replies_sha256: str = ""  # of the token ids of the first pass, to show that arms and gate saw the same replies
    taints: tuple[str, ...] = ()
    discarded: bool = False


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one arm of a measuring run used per reply. Estimates are absent where nothing could be measured."""

    arm: str
    meter: str | None  # MeterInfo.name that the joules below come from; None = no energy number (grade F)
    grade: Grade
    kind: Kind | None
    j_per_reply: Estimate | None  # gross
    j_per_reply_net: Estimate | None  # minus loaded idle
    j_per_token: Estimate | None
    j_prefill: Estimate | None  # J/reply of the prefill alone (its own windows, one output token)
    j_decode: Estimate | None  # the difference, with its propagated error
    watts: Estimate | None
    cpu_s_per_reply: Estimate
    s_per_reply: Estimate
    tokens_per_reply: Estimate
    tokens_in_per_reply: Estimate
    windows: int
    discarded: int


@dataclass(frozen=True, slots=True)
class TeacherScore:
    """Teacher-forced scores of one dialogue: reference and candidate over the same assistant turns.

    A candidate with a trimmed vocabulary may write them with more tokens than ``tokens``, which are the reference's;
    its ``p_eos_cand`` is then as for the reference's number of positions.
    """

    dialogue: str
    tokens: int  # assistant tokens, the end-of-turn token included
    nll_ref: float  # summed, nats
    nll_cand: float
    ends: int  # true ends of assistant turns
    log_p_eos_ref: float  # summed over the true ends
    log_p_eos_cand: float
    elsewhere: int  # assistant positions that are not ends
    p_eos_ref: float  # summed over them
    p_eos_cand: float
    kl: float  # summed KL(ref || cand), nats
    kl_max: float
    top1_same: int
    compared: int | None = None  # positions behind kl and top1_same; None = all. Fewer where a vocabulary was trimmed


@dataclass(frozen=True, slots=True)
class ScoredReply:
    """One generated reply of one model, with what the gate needs to judge it again."""

    dialogue: str
    turn: int  # index of the assistant message that it stands in for
    seed: int | None  # None = greedy
    text: str
    tokens: int
    stopped: bool
    cap: int
    reference: str  # the human or gold reply
    leaked: int = 0  # special tokens inside the reply; the text does not show them


@dataclass(frozen=True, slots=True)
class QualityInputs:
    """All that the gate reads. ``replies_ref[i]`` and ``replies_cand[i]`` answer the same prompt with the same seed."""

    parity: Parity
    teacher: tuple[TeacherScore, ...]
    replies_ref: tuple[ScoredReply, ...]
    replies_cand: tuple[ScoredReply, ...]


@dataclass(frozen=True, slots=True)
class GateCheck:
    """One line of the gate: ``estimate`` with its interval against ``margin``."""

    layer: str  # "G0" .. "G6"
    name: str
    verdict: Verdict
    estimate: Estimate | None  # None for the exact checks of G0
    margin: str  # in words: "upper 95 % bound < ln 1.02"
    detail: str
    n_needed: int | None = None  # for INCONCLUSIVE: dialogues it would take


@dataclass(frozen=True, slots=True)
class QualityReport:
    """The gate's judgement of one candidate on one split."""

    split: str
    verdict: Verdict
    checks: tuple[GateCheck, ...]
    dialogues: int
    replies: int
    seed: int
    kl_mean: float | None
    top1: float | None


@dataclass(frozen=True, slots=True)
class Trial:
    """One recipe tried. A failed one could not be made; a rejected one went no further than its reason says."""

    name: str  # "B1", "int8", "int4+int8 head", "int4"
    recipe: tuple[str, ...]
    status: Literal["done", "rejected", "failed"]
    reason: str | None
    artifact: Artifact | None
    at: OperatingPoint
    energy: Measurement | None
    quality: QualityReport | None
    cpu_s_ratio_vs_B1: Estimate | None = None
    energy_ratio_vs_B1: Estimate | None = None
    tried: tuple[Served, ...] = ()  # `at` was chosen among these


@dataclass(frozen=True, slots=True)
class Outside:
    """What a candidate lost on dialogues of a kind that it was not made for; nothing is decided by it."""

    kind: str
    quality: QualityReport
    inputs: QualityInputs


@dataclass(frozen=True, slots=True)
class TrialReadings:
    """The raw readings behind one candidate on the tune split; None where it never got that far."""

    trial: str
    windows: tuple[Window, ...]
    quality_inputs: QualityInputs | None


@dataclass(frozen=True, slots=True)
class Claim:
    """The headline: baseline over winner, so 15 means fifteen times less."""

    verdict: ClaimVerdict
    about: str  # the Trial that the ratios are about
    sentence: str
    grade: Grade
    kind: Kind | None
    cpu_s_ratio_vs_B0: Estimate
    cpu_s_ratio_vs_B1: Estimate
    energy_ratio_vs_B0: Estimate | None
    energy_ratio_vs_B1: Estimate | None


@dataclass(frozen=True, slots=True)
class Provenance:
    """What was run, on what, with which inputs."""

    halfwatt: str
    created: str  # UTC, ISO 8601
    command: str
    seed: int
    model: str
    model_sha256: str
    dialogues: str
    dialogues_sha256: dict[str, str]  # split -> hash
    machine: dict[str, str] = field(default_factory=dict)  # cpu, cores, memory, kernel, governor
    versions: dict[str, str] = field(default_factory=dict)  # python and the packages that compute


T = TypeVar("T")


def to_json(record: Any) -> str:
    """A record, or a container of records, as indented JSON. NaN and infinity raise ValueError."""
    import json

    from pydantic import TypeAdapter

    plain = TypeAdapter(type(record)).dump_python(record, mode="json")
    return json.dumps(plain, indent=1, allow_nan=False)


def from_json(text: str | bytes, kind: type[T]) -> T:
    """Read a record back.

    Raises:
        pydantic.ValidationError: the text is not a `kind`.
    """
    from pydantic import TypeAdapter

    return TypeAdapter(kind).validate_json(text)
