"""The last stage of a candidate: the gate's report on it, beside a reference that answered the same dialogues.

the original's replies           a part of the dialogues at a time, once for all candidates of a split
how they and people's fit        the same
judge    a candidate, a reference -> what the gate read, and what it says of it
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import NormalDist

import numpy as np

from halfwatt.core.machine import cores
from halfwatt.core.settings import Margins
from halfwatt.evaluate import gate
from halfwatt.evaluate.examine import Yardstick, examine, examine_fit, examine_likelihood
from halfwatt.evaluate.fit import fit_of_people, fit_of_reference
from halfwatt.evaluate.records import Fit, GateCheck, QualityInputs, QualityReport, ScoredReply
from halfwatt.evaluate.replies import generate_replies, shard_size
from halfwatt.formats.artifact import Artifact
from halfwatt.runtimes.base import OperatingPoint
from halfwatt.search.lab import Contender, Lab
from halfwatt.search.served import judging
from halfwatt.search.stages import AS_COMMONLY_RUN, BuildOrder, build, likelihoods

MIN_JUDGED = 200  # dialogues of the sealed split, if there are so many
Z_95, Z_90 = 1.645, 1.282  # normal quantiles
_MISSED = 0.1  # of runs may end undecided
_MOST_MORE = ((Z_95 + Z_90) / Z_95) ** 2  # (M - m) / se = z_95 on the tune split is inside again in 90 % of runs


@dataclass(frozen=True, slots=True)
class JudgeOrder:
    """A candidate against the reference."""

    reference: Contender
    candidate: Contender
    margins: Margins
    screened: bool = False  # its likelihoods were read by the screen already
    answered: int | None = None  # dialogues that the reference answers too, the first ones; of the others G7 is asked
    if_likely: bool = False  # who fails by likelihood is asked for no replies


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the gate read, and what it says of it."""

    inputs: QualityInputs
    report: QualityReport


def judge(lab: Lab, order: JudgeOrder) -> Judgement:
    """The gate's report: likelihoods and replies in the runtime that will serve the candidate."""
    special, seed = lab.job.model.tokenizer.special_tokens, lab.job.settings.seed
    inputs: QualityInputs | None = None
    report: QualityReport | None = None
    for part in lab.parts():
        only_fit = report is not None and all(c.verdict == "PASS" for c in report.checks if c.layer != "G7")
        more = _read(part, order, 0 if only_fit else order.answered)
        inputs = more if inputs is None else inputs.and_more(more)
        report = gate.judge(inputs, split=lab.name, margins=order.margins, special=special, seed=seed)
        if report.verdict != "INCONCLUSIVE":
            break
    assert inputs is not None, "a workload has dialogues"
    assert report is not None
    return Judgement(inputs, report)


def _read(lab: Lab, order: JudgeOrder, answered: int | None) -> QualityInputs:
    """All that the gate asks of the first ``answered`` dialogues (None = of all); of the others what G7 asks, with
    people as its measure: it needs the most dialogues, and what the reference says there would cost the most."""
    judged_by, count, inputs = judge_named(lab) or order.reference.for_likelihood(), len(lab.workload.dialogues), None
    if first := count if answered is None else min(answered, count):
        part = lab if first == count else lab.part(0, first)
        scores = likelihoods(part, order.reference, order.candidate) if order.screened or order.if_likely else ()
        if order.if_likely and gate.unlikely(scores, order.margins):
            return examine_likelihood(lab.spec(order.candidate), part.workload, scores)
        speaker = _speaker(lab, order.reference)
        replies = all_reference_replies(part, speaker)
        fit = part.run(reference_fit, FitOrder(speaker, judged_by))
        yardstick = Yardstick(lab.spec(order.reference), lab.spec(judged_by), replies, fit)
        inputs = examine(yardstick, lab.spec(order.candidate), part.workload, lab.say, scores)
        if first == count or not inputs.teacher:  # what fails G0 is asked nothing else
            return inputs
    rest = lab.part(first, count) if first else lab
    known = rest.run(people_fit, judged_by)
    more = examine_fit(lab.spec(judged_by), lab.spec(order.candidate), rest.workload, known, lab.say)
    return more if inputs is None else inputs.and_more(more)


def _speaker(lab: Lab, reference: Contender) -> Contender:
    """Who gives the original's replies: B0 where its settings ask for what only that does, and users see."""
    model = lab.job.model
    if model.run_only or not model.generation.only_transformers:
        return reference
    b0 = lab.run(build, BuildOrder("B0", "", model.sha256, format=AS_COMMONLY_RUN)).artifact
    assert b0 is not None, "it was measured"
    return Contender("B0", b0, OperatingPoint(reuse_prefix=False))


@dataclass(frozen=True, slots=True)
class RepliesOrder:
    """Who is to answer which of the lab's dialogues."""

    reference: Contender
    start: int
    stop: int


def reference_replies(lab: Lab, order: RepliesOrder) -> tuple[ScoredReply, ...]:
    """The reference's own replies to some of the lab's dialogues."""
    label = f"original's replies, {lab.name} split, from {order.start} on"
    some, size = lab.workload.requests()[order.start : order.stop], shard_size(len(lab.workload.dialogues))
    return generate_replies(lab.spec(order.reference), some, lab.say, label, size=size)


def all_reference_replies(lab: Lab, reference: Contender) -> tuple[ScoredReply, ...]:
    """To all of them; each part is kept as soon as it is there. Parts are whole shards: the candidate's are the same,
    and what is answered together decides on roundings."""
    count = len(lab.workload.dialogues)
    part = _part(count)
    parts = (lab.run(reference_replies, RepliesOrder(reference, at, at + part)) for at in range(0, count, part))
    return tuple(chain.from_iterable(parts))


def _part(dialogues: int) -> int:
    """Of so many, whose replies are kept together: of a public model that never stops a quarter of an hour."""
    size = shard_size(dialogues)
    return size * max(2, cores()) if size < dialogues / 4 else dialogues


@dataclass(frozen=True, slots=True)
class FitOrder:
    """Whose replies a judge reads first, beside people's."""

    reference: Contender
    judge: Contender


def reference_fit(lab: Lab, order: FitOrder) -> tuple[Fit, ...]:
    """How the reference's replies and people's fit what was asked, for all candidates of the split."""
    replies = all_reference_replies(lab, order.reference)
    return fit_of_reference(lab.spec(order.judge), lab.workload, replies, lab.say)


def people_fit(lab: Lab, judge: Contender) -> tuple[Fit, ...]:
    """How people's replies fit what was asked, where the reference is not asked."""
    return fit_of_people(lab.spec(judge), lab.workload, lab.say)


def judge_named(lab: Lab) -> Contender | None:
    """The model that the user names to tell what fits; None = nobody but the original."""
    if (name := lab.job.settings.judge) is None:
        return None

    def served_once() -> Artifact:
        return judging(name, lab.job.settings, lab.job.out / "judge", lab.workload.dialogues).artifact

    return Contender("judge", lab.store.run("judge_named", name, Artifact, served_once), OperatingPoint())


def dialogues_to_judge(tuned: QualityReport | None, most: int) -> tuple[int, int]:
    """Of the sealed split, fixed before any of it is looked at: see `_more`.

    tuned: the verdict on the tune split; None = the champion is the reference itself. most: there are
    Returns: dialogues that the reference answers too, and all of which G7 asks.
    """
    if tuned is None:
        return most, most
    others = [check for check in tuned.checks if check.layer != "G7"]
    about_fit = [check for check in tuned.checks if check.layer == "G7"]
    alone = any(check.verdict == "PASS" and check.room is None for check in about_fit)  # it holds beside the original
    undecided = any(check.verdict != "PASS" for check in about_fit)
    if any(check.verdict != "PASS" for check in others) or (undecided and alone):
        return most, most
    if undecided:  # people are asked of all: that takes none of its replies
        return min(most, max(MIN_JUDGED, math.ceil(tuned.dialogues * _more(others)))), most
    fit = max((c.estimate.n for c in about_fit if c.estimate), default=0)
    more = _more(others), _MOST_MORE if alone else _more(about_fit)
    counts = zip((tuned.dialogues, fit), more, strict=True)
    answered, fitted = (min(most, max(MIN_JUDGED, math.ceil(n * times))) for n, times in counts)
    fitted = max(answered, fitted)
    return fitted if alone else answered, fitted


def _more(checks: Sequence[GateCheck]) -> float:
    """Times the tune split's dialogues on which all of ``checks`` hold on the sealed split in 90 % of runs.

    A bound that was z standard errors inside its margin there is inside it on r times as many with the probability
    Phi((z - z_95 / sqrt(r)) / sqrt(1 + 1 / r)): both splits' errors count (the predictive power of Spiegelhalter and
    Freedman 1986). The chances to miss are added up. A bound that was just inside asks for any number: then, as if it
    were the truth, `_MOST_MORE`.
    """
    inside = [Z_95 * (1 + check.room) for check in checks if check.room is not None]
    for more in np.geomspace(0.1, _MOST_MORE, 60):
        away = ((z - Z_95 / math.sqrt(more)) / math.sqrt(1 + 1 / more) for z in inside)
        if sum(NormalDist().cdf(-distance) for distance in away) <= _MISSED:
            return float(more)
    return _MOST_MORE
