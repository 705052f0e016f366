"""Students in front of their original, for traffic of which a part is of another kind; see `runtimes.cascade`.

the students that were tried -> each answers the other kind of dialogue too, beside the original
                             -> what the gate would say of both kinds at each threshold: all replies are there
the cheapest of these        -> built, measured on mixed traffic against B1, judged on both kinds; the first that
                                passes is the last that is tried
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from halfwatt.core.settings import Margins
from halfwatt.evaluate import energy_analysis, gate
from halfwatt.evaluate.parity import parity_of_both
from halfwatt.evaluate.records import Mixed, QualityInputs, TeacherScore
from halfwatt.evaluate.requests import Workload, mixed_workload
from halfwatt.formats.artifact import ARTIFACT, Artifact, read_artifact
from halfwatt.models.bigram_model import BigramModel, words_said
from halfwatt.models.tokenizer import ChatTokenizer
from halfwatt.runtimes.base import OperatingPoint
from halfwatt.runtimes.cascade import TOO_LONG, Cascade, Member, Router, write_cascade
from halfwatt.search.candidate import CandidateResult
from halfwatt.search.job import Job, OtherKind
from halfwatt.search.judgement import Judgement, JudgeOrder, judge
from halfwatt.search.lab import Contender, Lab
from halfwatt.search.stage_store import StageStore, hash_of
from halfwatt.search.stages import MeasureOrder, measure, saving_of
from halfwatt.search.trial import TrialReadings

# Shares of the user's own prompts that a student may get. Not all: the oddest would set a limit that keeps nothing out.
KEPT = (0.99, 0.97, 0.95, 0.9, 0.8, 0.65, 0.5)
MOST_TRIED = 4  # choices that are built, the cheapest first

Turn = tuple[str, int]
Surprisals = dict[Turn, float]


@dataclass(frozen=True, slots=True)
class Kinds:
    """One split of the user's own dialogues, and of another kind; ``share`` of the traffic is of the other."""

    own: Lab
    other: Lab
    share: float

    @classmethod
    def of(cls, job: Job, store: StageStore, kind: OtherKind, own: Lab, winner: str | None = None) -> Kinds:
        """Beside the lab of the user's own. winner: for whom the sealed split of the others is opened; None = tune."""
        dialogues = kind.tune if winner is None else kind.test.open(winner)
        return cls(own, replace(Lab.of(job, store, dialogues, own.split), kind="the other kind"), kind.share)

    @property
    def mixed(self) -> Lab:
        """Both, in their shares."""
        workload = mixed_workload(self.own.workload, self.other.workload, self.share)
        return replace(self.own, workload=workload, kind=f"mixed with {self.share:.3g} of another kind")


@dataclass(frozen=True, slots=True)
class Choice:
    """A student with a threshold. cost: of B1's on mixed traffic, as the two measured against each other tell."""

    student: CandidateResult
    nats_per_byte: float
    cost: float


@dataclass(frozen=True, slots=True)
class CascadeOrder:
    """What is to be put in front of what, up to which surprisal of words learned from which dialogues."""

    student: Contender
    original: Contender
    nats_per_byte: float
    learned_from: str


def try_cascades(kinds: Kinds, reference: Contender, students: Sequence[CandidateResult]) -> list[CandidateResult]:
    """The cascades that were tried, the one that passed last. None where nothing was taught."""
    lab, tried = kinds.own, list[CandidateResult]()
    if not any(map(_can_lead, students)):
        lab.say("no cascade: no student was taught, measured and asked for replies that saves anything")
    choices = [choice for student in students if _can_lead(student) for choice in _choices(kinds, reference, student)]
    for choice in sorted(choices, key=lambda choice: choice.cost)[:MOST_TRIED]:
        result = _try(kinds, reference, choice)
        tried.append(result)
        if result.trial.verdict == "PASS":
            break
    return tried


def _can_lead(student: CandidateResult) -> bool:
    """It was taught, measured, and asked for replies, and saves something."""
    trial, inputs = student.trial, student.readings.quality_inputs
    taught = trial.status == "done" and trial.artifact is not None and bool(trial.artifact.spent)
    return taught and inputs is not None and bool(inputs.replies_cand) and _saving(student) > 1


def _saving(student: CandidateResult) -> float:
    return student.saving.mean if student.saving is not None else 0.0


def _choices(kinds: Kinds, reference: Contender, student: CandidateResult) -> Iterator[Choice]:
    """At which thresholds the gate would not fail it, on what it and the original have said of both kinds."""
    lab, margins = kinds.own, kinds.own.job.settings.margins
    contender, own = Contender.of(student.trial), student.readings.quality_inputs
    assert own is not None, "it can lead"
    lab.say(f"{contender.name}: what it says to the other kind of dialogue")
    other = kinds.other.run(judge, JudgeOrder(reference, contender, margins)).inputs
    if not other.replies_cand:
        return
    router = router_of(lab.job, contender.artifact)
    surprisals = [surprisals_of(router, kind.workload) for kind in (kinds.own, kinds.other)]
    before = 0.0
    for kept in KEPT:
        limit = float(f"{np.quantile([s for s in surprisals[0].values() if s < TOO_LONG], kept):.4g}")  # for its name
        asked = [float(np.mean([s > limit for s in known.values()])) for known in surprisals]
        to_original = (1 - kinds.share) * asked[0] + kinds.share * asked[1]
        cost = to_original + (1 - to_original) / _saving(student)
        verdicts = [_verdict(lab, routed(*kind, limit), margins) for kind in zip((own, other), surprisals, strict=True)]
        if cost < 1 and cost > before and "FAIL" not in verdicts:
            before = cost
            yield Choice(student, limit, cost)


def _verdict(lab: Lab, inputs: QualityInputs, margins: Margins) -> str:
    special, seed = lab.job.model.tokenizer.special_tokens, lab.job.settings.seed
    return gate.judge(inputs, split=lab.split, margins=margins, special=special, seed=seed).verdict


def routed(inputs: QualityInputs, surprisals: Surprisals, nats_per_byte: float) -> QualityInputs:
    """What the gate would read where the reference gives the replies to what surprises more. Of a dialogue that both
    answer, the likelihood is the candidate's: which turns it is the sum of is not known. Pure."""

    def asks(turn: Turn) -> bool:
        return surprisals.get(turn, 0.0) > nats_per_byte

    answered = {turn[0] for turn in surprisals if not asks(turn)}
    pairs = zip(inputs.replies_ref, inputs.replies_cand, strict=True)
    fits = [(f, f.reference) if asks((f.dialogue, f.turn)) else (f, f.candidate) for f in inputs.fit]
    return replace(
        inputs,
        teacher=tuple(s if s.dialogue in answered else _as_reference(s) for s in inputs.teacher),
        replies_cand=tuple(ref if asks((ref.dialogue, ref.turn)) else cand for ref, cand in pairs),
        fit=tuple(replace(fit, candidate=said) for fit, said in fits if said),
    )


def _as_reference(score: TeacherScore) -> TeacherScore:
    return replace(
        score,
        nll_cand=score.nll_ref,
        log_p_eos_cand=score.log_p_eos_ref,
        p_eos_cand=score.p_eos_ref,
        stay_cand=score.stay_ref,
        kl=0.0,
        kl_max=0.0,
    )


def router_of(job: Job, student: Artifact, nats_per_byte: float = 0.0) -> Router:
    """By the words of the dialogues that it was taught on, in its own tokens."""
    tokenizer = ChatTokenizer.load(student.path)
    said = (text for dialogue in job.step_context().dialogues for text in words_said(dialogue))
    words = BigramModel.counted(map(tokenizer.encode, said), tokenizer.vocab_size)
    return Router(words, tokenizer, student.context or job.model.context, nats_per_byte)


def surprisals_of(router: Router, workload: Workload) -> Surprisals:
    """Of the prompt of each reply."""
    turns = ((d, turn) for d in workload.dialogues for turn in d.assistant_turns)
    return {(d.id, turn): router.surprisal(d.before(turn)) for d, turn in turns}


def cascade(lab: Lab, order: CascadeOrder) -> Artifact:
    """Both artifacts in one folder, with their parity record."""
    folder = lab.job.out / "artifacts" / f"cascade-{hash_of(order)}"
    if not (folder / ARTIFACT).exists():  # else it was written by a run that was killed before it was noted
        student, original = (Member(c.artifact, c.at) for c in (order.student, order.original))
        router = router_of(lab.job, student.artifact, order.nats_per_byte)
        own, other = student.artifact.parity, original.artifact.parity
        assert own is not None
        assert other is not None, "both were proved before they were measured"
        write_cascade(Cascade(student, original, router), parity_of_both(own, other), folder)
    return read_artifact(folder)


def _try(kinds: Kinds, reference: Contender, choice: Choice) -> CandidateResult:
    """Build, measure and judge one; kept as a whole."""
    lab, student = kinds.own, Contender.of(choice.student.trial)
    name = f"cascade at {choice.nats_per_byte:g}: {student.name}"  # what tells it apart first: plots cut long names
    order = CascadeOrder(student, reference, choice.nats_per_byte, lab.job.step_context().fingerprint)

    def compute() -> CandidateResult:
        lab.say(f"{name}: building it; it would take about {choice.cost:.2f} of B1")
        artifact = lab.run(cascade, order)
        at = OperatingPoint(batch=max(student.at.batch, reference.at.batch))
        contender = Contender(name, artifact, at)
        lab.say(f"{name}: measuring against {reference.name} on mixed traffic")
        run = kinds.mixed.run(measure, MeasureOrder((reference, contender), lab.job.settings.protocol.paired))
        own, other, mixed = judge_both(kinds, reference, contender)
        names, windows = (reference.name, name), run.windows
        trial = replace(
            choice.student.trial,
            name=name,
            artifact=artifact,
            at=at,
            energy=energy_analysis.measurement(name, windows, run.meter),
            quality=own.report,
            cpu_s_ratio_vs_B1=energy_analysis.ratio(*names, windows, energy_analysis.cpu_s_per_reply),
            energy_ratio_vs_B1=energy_analysis.energy_ratio(*names, windows, run.meter),
            tried=(),
            mixed=mixed,
        )
        readings = TrialReadings(name, windows, own.inputs, other.inputs)
        over = max(gate.missed(own.report.checks), gate.missed(other.report.checks))
        return CandidateResult(trial, readings, saving_of(*names, run), over)

    return lab.store.once(f"candidate-cascade-{hash_of(order)}", CandidateResult, compute)


def judge_both(
    kinds: Kinds, reference: Contender, contender: Contender, answered: Sequence[int | None] = (None, None)
) -> tuple[Judgement, Judgement, Mixed]:
    """On both kinds. answered: see `JudgeOrder`"""
    margins = kinds.own.job.settings.margins
    labs = kinds.own, kinds.other
    own, other = (
        lab.run(judge, JudgeOrder(reference, contender, margins, answered=count))
        for lab, count in zip(labs, answered, strict=True)
    )
    router = Cascade.read(contender.artifact).router
    surprisals = [tuple(surprisals_of(router, lab.workload).values()) for lab in labs]
    mixed = Mixed(kinds.share, router.nats_per_byte, (surprisals[0], surprisals[1]), other.report)
    return own, other, mixed
