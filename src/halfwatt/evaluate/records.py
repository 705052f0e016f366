"""The raw readings of energy and quality, and what is derived from them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from halfwatt.core.estimate import Estimate
from halfwatt.formats.artifact import Parity
from halfwatt.meters.base import Grade, Kind, Reading, Usage

Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE"]
ClaimVerdict = Literal["PASS", "FAIL", "INCONCLUSIVE", "NO PROVEN SAVING"]
Phase = Literal["bare_idle", "loaded_idle", "reply", "prefill"]


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

    @property
    def consumption(self) -> Usage:
        """By the process under test, within the window."""
        return self.usage[1] - self.usage[0]


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
    stay_ref: float | None = None  # summed -log(1 - P(EOS)) where turns do not end, nats; None = not read (schema 1)
    stay_cand: float | None = None


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
    thought: int = 0  # characters of what it thought before the text, which has none of it; the tokens have


@dataclass(frozen=True, slots=True)
class Facts:
    """What the human reply at ``turn`` repeats of what stands before it, each in the one form of `evaluate.facts`."""

    dialogue: str
    turn: int
    values: tuple[str, ...]
    numbers: tuple[str, ...]  # all numbers that stand before it


@dataclass(frozen=True, slots=True)
class Fit:
    """How likely a judge finds three replies to one turn: log p, nats, after their own dialogue first, then others'."""

    dialogue: str
    turn: int
    people: tuple[float, ...]
    reference: tuple[float, ...]  # () = its reply was not asked for
    candidate: tuple[float, ...] = ()  # () = not asked yet


@dataclass(frozen=True, slots=True)
class QualityInputs:
    """All that the gate reads. ``replies_ref[i]`` and ``replies_cand[i]`` answer the same prompt with the same seed."""

    parity: Parity
    teacher: tuple[TeacherScore, ...]
    replies_ref: tuple[ScoredReply, ...]
    replies_cand: tuple[ScoredReply, ...]
    facts: tuple[Facts, ...] = ()  # of every greedy reply; results of schema 1 hold neither of the two
    fit: tuple[Fit, ...] = ()  # of more dialogues than the others, where only these are too few

    def and_more(self, more: QualityInputs) -> QualityInputs:
        """With what was read of further dialogues, whose parity record knows of these too."""
        own = ((f.name, getattr(self, f.name), getattr(more, f.name)) for f in fields(self))
        return QualityInputs(**{name: b if name == "parity" else a + b for name, a, b in own})


@dataclass(frozen=True, slots=True)
class GateCheck:
    """One line of the gate: ``estimate`` with its interval against ``margin``."""

    layer: str  # "G0" .. "G7"
    name: str
    verdict: Verdict
    estimate: Estimate | None  # None for the exact checks of G0
    margin: str  # in words: "upper 95 % bound < ln 1.02"
    detail: str
    n_needed: int | None = None  # for INCONCLUSIVE: dialogues it would take
    missed: float = 0.0  # by which the bound lies beyond the margin, as a share of what the margin allows
    room: float | None = None  # from the bound on to the margin, in distances of the bound from the mean; None = exact


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
class Outside:
    """What a candidate lost on dialogues of a kind that it was not made for; nothing is decided by it."""

    kind: str
    quality: QualityReport
    inputs: QualityInputs


@dataclass(frozen=True, slots=True)
class Mixed:
    """How a cascade does on traffic of which a share is of another kind than the user's own."""

    share: float  # of the dialogues
    nats_per_byte: float  # of surprisal, beyond which the original is asked
    surprisals: tuple[tuple[float, ...], tuple[float, ...]]  # of the prompt of each reply: the user's own, the other
    quality: QualityReport  # of the other kind, on the same split

    @property
    def asked(self) -> tuple[float, float]:
        """Share of the replies that the original gives: of the user's own kind, of the other."""
        own, other = (sum(s > self.nats_per_byte for s in kind) / max(1, len(kind)) for kind in self.surprisals)
        return own, other


@dataclass(frozen=True, slots=True)
class Claim:
    """The headline: baseline over winner, so 15 means fifteen times less."""

    verdict: ClaimVerdict
    about: str  # the Trial that the ratios are about
    sentence: str
    grade: Grade
    kind: Kind | None
    cpu_s_ratio_vs_B0: Estimate | None  # None: the original can only be run, there is no B0
    cpu_s_ratio_vs_B1: Estimate
    energy_ratio_vs_B0: Estimate | None
    energy_ratio_vs_B1: Estimate | None
