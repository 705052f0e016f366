"""The gate: does the candidate answer as well as the reference? PASS, FAIL or INCONCLUSIVE.

Non-inferiority against stated margins, paired, the dialogue as the unit. H0: "the candidate is worse than the margin".
PASS means that every layer rejects it at 5 %, one-sided, so no correction for several tests is needed: all must pass.

    G0 integrity    exact; any miss fails, and nothing else is looked at
    G1 likelihood   change of nats per assistant token
    G2 stopping     log P(EOS) where turns end, P(EOS) where they do not
    G3 failures     empty, endless, looping, leaking replies
    G4 length       tokens per reply: energy, not only style
    G5 content      chrF to the human reply, diversity of words
    G6 facts        values before a reply that people repeat in it
    G7 fit          is it likelier after its own dialogue than after others'?

To be closer to people is no loss: where a reply is shorter, or ends elsewhere, than the reference's, people decide.
No data never passes; what is not finite or not paired raises. docs/gate.md has the rules' sources and power.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from halfwatt.core.errors import BadInput
from halfwatt.core.settings import Margins
from halfwatt.core.statistics import ALPHA, Clustered, Floats, clustered_ratio, rate_difference
from halfwatt.evaluate import facts, fit, reply_metrics
from halfwatt.evaluate.integrity import integrity_checks
from halfwatt.evaluate.records import (
    Facts,
    Fit,
    GateCheck,
    Mixed,
    QualityInputs,
    QualityReport,
    ScoredReply,
    TeacherScore,
    Verdict,
)

Pairs = Sequence[tuple[ScoredReply, ScoredReply]]
EDITION = 5  # of the rules
NOT_PASSED = 0.05  # of a margin: the least that counts as missed, such as by an exact check


def judge(
    inputs: QualityInputs, *, split: str, margins: Margins, special: Sequence[str], seed: int, edition: int = EDITION
) -> QualityReport:
    """Judge one candidate on one split. Pure: the same inputs give the same report.

    Args:
        special: the template's special tokens, which must not show in a reply.
        seed: of the generation, for the record.
        edition: 1 = G0 to G5, the reference alone the measure, as results of schema 1 were judged; 2 = G3 with one
            check of all failures; 3 = G5's diversity of whole replies, however long; 4 = G7's bounds, of which each
            may be wrong in 2.5 % of runs, as near to the estimate as those of 5 % where no two replies differ.

    Raises:
        BadInput: replies or scores that are not paired, or not finite.
    """
    checks = integrity_checks(inputs.parity, margins)
    if all(check.verdict == "PASS" for check in checks):
        checks += statistical_checks(inputs, margins, special, edition)
    tokens = sum(t.tokens if t.compared is None else t.compared for t in inputs.teacher)
    return QualityReport(
        split=split,
        verdict=overall_verdict([check.verdict for check in checks]),
        checks=tuple(checks),
        dialogues=len(inputs.teacher),
        replies=len(inputs.replies_cand),
        seed=seed,
        kl_mean=sum(t.kl for t in inputs.teacher) / tokens if tokens else None,
        top1=sum(t.top1_same for t in inputs.teacher) / tokens if tokens else None,
    )


def likelihood_check(checks: Sequence[GateCheck]) -> GateCheck | None:
    """The check of the change in log-likelihood (G1), when the gate got that far."""
    return next((c for c in checks if c.layer == "G1" and c.estimate is not None), None)


def missed(checks: Sequence[GateCheck]) -> float:
    """By how many of its margins the worst check misses; 0 = all pass."""
    return max((max(check.missed, NOT_PASSED) for check in checks if check.verdict != "PASS"), default=0.0)


def overall_verdict(verdicts: Sequence[Verdict]) -> Verdict:
    """PASS where every check passed, FAIL where one failed or none was made."""
    if "FAIL" in verdicts or not verdicts:
        return "FAIL"
    return "PASS" if all(v == "PASS" for v in verdicts) else "INCONCLUSIVE"


def both_hold(quality: QualityReport, mixed: Mixed | None) -> Verdict:
    """The verdict on a candidate; a cascade has to answer the other kind of dialogue as well."""
    reports = [quality] if mixed is None else [quality, mixed.quality]
    return overall_verdict([report.verdict for report in reports])


def statistical_checks(
    inputs: QualityInputs, margins: Margins, special: Sequence[str], edition: int = EDITION
) -> list[GateCheck]:
    """G1 to G7; `judge` asks for them once G0 holds. Who fails by likelihood may have been asked nothing else."""
    if not inputs.replies_ref and unlikely(inputs.teacher, margins):
        return teacher_checks(inputs.teacher, margins)
    if len(inputs.teacher) < 2 or len(inputs.replies_ref) < 2:
        return [GateCheck("G1", "data", "FAIL", None, "two or more dialogues", "no data never passes")]
    pairs = _paired(inputs.replies_ref, inputs.replies_cand)
    checks = [*teacher_checks(inputs.teacher, margins), *_failures(pairs, margins, special, edition)]
    if edition == 1:
        return [replace(c, missed=0.0) for c in (*checks, _length(pairs, margins), *_content(pairs, margins, edition))]
    length = _length_beside_people(pairs, margins, _length(pairs, margins))
    return [
        *checks,
        length,
        *_content(pairs, margins, edition),
        _facts(pairs, inputs.facts, margins),
        *_fit(inputs.fit, margins, edition),
    ]


def _paired(reference: Sequence[ScoredReply], candidate: Sequence[ScoredReply]) -> list[Pairs]:
    """Replies of both models to the same requests, grouped by dialogue.

    Raises:
        BadInput: they do not answer the same requests.
    """
    if len(reference) != len(candidate):
        raise BadInput(f"{len(reference)} replies of the reference against {len(candidate)} of the candidate")
    pairs = list(zip(reference, candidate, strict=True))
    for pair in pairs:
        ref, cand = ((reply.dialogue, reply.turn, reply.seed, reply.cap) for reply in pair)
        if ref != cand:
            raise BadInput("replies are not paired", got=f"{ref} against {cand}")
    pairs.sort(key=lambda pair: pair[0].dialogue)
    return [list(group) for _, group in groupby(pairs, key=lambda pair: pair[0].dialogue)]


def teacher_checks(scores: Sequence[TeacherScore], margins: Margins) -> list[GateCheck]:
    """G1 and G2: the checks that need no replies, only both models' probabilities of the human ones."""

    def ratio(x: Callable[[TeacherScore], float], size: Callable[[TeacherScore], float]) -> Clustered:
        return clustered_ratio(np.array([x(s) for s in scores]), np.array([float(size(s)) for s in scores]))

    limit, down, up = math.log1p(margins.perplexity), 1 - margins.eos_elsewhere, 1 + margins.eos_elsewhere
    likelihood = ratio(lambda s: s.nll_cand - s.nll_ref, lambda s: s.tokens)
    ends = ratio(lambda s: s.log_p_eos_cand - s.log_p_eos_ref, lambda s: s.ends)
    elsewhere = ratio(lambda s: s.p_eos_cand, lambda s: s.p_eos_ref)
    rule = f"upper bound of the change in nats per token < ln {1 + margins.perplexity:g} = {limit:.4f}"
    at_ends = f"lower bound of the change in log P(EOS) > -{margins.eos_nats:g}"
    within = f"P(EOS) ratio within {down:g} and {up:g}"
    stopping = _check(("G2", "stopping elsewhere", "x"), elsewhere, within, low=down, high=up)
    if stopping.verdict != "PASS" and all(s.stay_ref is not None and s.stay_cand is not None for s in scores):
        further = ratio(_further_from_human_ends, lambda s: s.ends)
        closer = f"{within}, or proven nearer to where people end: upper bound of the change in nats a reply < 0"
        stopping = replace(stopping, margin=closer)
        if further.hi < 0:
            stopping = _check(("G2", "stopping, as people do", "nats/reply"), further, closer, high=0.0)
    return [
        _check(("G1", "likelihood", "nats/token"), likelihood, rule, high=limit),
        _check(("G2", "stopping at true ends", "nats"), ends, at_ends, low=-margins.eos_nats),
        stopping,
    ]


def unlikely(scores: Sequence[TeacherScore], margins: Margins) -> bool:
    """Whether G1 or G2 fails, whatever the replies say."""
    return len(scores) > 1 and any(check.verdict == "FAIL" for check in teacher_checks(scores, margins))


def _further_from_human_ends(s: TeacherScore) -> float:
    """Change in -log P(a reply ends where the person's does): -log P(EOS) there, -log(1 - P(EOS)) before; nats."""
    assert s.stay_ref is not None
    assert s.stay_cand is not None
    return s.log_p_eos_ref - s.log_p_eos_cand + s.stay_cand - s.stay_ref


def _failures(pairs: Sequence[Pairs], margins: Margins, special: Sequence[str], edition: int) -> list[GateCheck]:
    """Of all kinds, and without those that an original which hardly ever stops would hide: running on, and the loops
    that it runs on in."""

    def otherwise(faults: Sequence[str]) -> bool:
        hidden = (reply_metrics.RUNS_ON, *reply_metrics.LOOPS) if reply_metrics.RUNS_ON in faults else ()
        return bool(set(faults) - set(hidden))

    checks = [_more_often("failures", bool, pairs, margins, special)]
    if edition >= 3:
        checks.append(_more_often("failures beside running on", otherwise, pairs, margins, special))
    return checks


def _more_often(
    name: str,
    fails: Callable[[Sequence[str]], bool],
    pairs: Sequence[Pairs],
    margins: Margins,
    special: Sequence[str],
) -> GateCheck:
    kinds: Counter[str] = Counter()
    counts = np.zeros((len(pairs), 3))  # failures of the reference, of the candidate, replies
    for row, group in zip(counts, pairs, strict=True):
        for ref, cand in group:
            faults = reply_metrics.flags(cand, special)
            row += (fails(reply_metrics.flags(ref, special)), fails(faults), 1)
            kinds.update(faults if fails(faults) else ())
    listed = ", ".join(f"{kind} {n}" for kind, n in sorted(kinds.items())) or "none"
    ref, cand, replies = counts.sum(axis=0)
    detail = f"reference {ref:.0f}, candidate {cand:.0f} of {replies:.0f} replies ({listed})"
    rule = f"upper bound of the difference in failure rate < {margins.failures:.0%}"
    check = _check(("G3", name, "share"), rate_difference(*counts.T), rule, high=margins.failures)
    return replace(check, detail=detail)


def _length(pairs: Sequence[Pairs], margins: Margins) -> GateCheck:
    ratio = _mean_ratio(pairs, lambda ref, cand: _tokens(cand) / _tokens(ref))
    rule = f"length ratio within {margins.shorter:g} and {margins.longer:g}"
    return _check(("G4", "length", "x"), ratio, rule, low=margins.shorter, high=margins.longer)


def _length_beside_people(pairs: Sequence[Pairs], margins: Margins, check: GateCheck) -> GateCheck:
    """Where people themselves would fail ``check``, being shorter or longer than the reference, they are the limit.

    In characters: a person has no tokens, and a trimmed vocabulary cuts others.
    """
    low, high = margins.shorter, margins.longer
    people = _mean_ratio(pairs, lambda ref, _: _characters(ref.reference) / _characters(ref.text))
    if check.verdict == "PASS" or not (people.hi < low or people.lo > high):
        return check
    beside = _mean_ratio(pairs, lambda ref, cand: _characters(cand.text) / _characters(ref.reference))
    tokens = _mean_ratio(pairs, lambda ref, cand: _tokens(cand) / _tokens(ref))
    about = ("G4", "length, beside people's", "x")
    if people.hi < low:
        rule = f"over {low:g} of people's length and under {high:g} of the original's"
        own, other = _check(about, beside, rule, low=low), _check(about, tokens, rule, high=high)
    else:
        rule = f"over {low:g} of the original's length and under {high:g} of people's"
        own, other = _check(about, beside, rule, high=high), _check(about, tokens, rule, low=low)
    detail = (
        f"people need {people.mean:.2f}x the original's characters, the candidate takes {tokens.mean:.2f}x its tokens"
    )
    verdict, missed = overall_verdict([own.verdict, other.verdict]), max(own.missed, other.missed)
    room = min((side.room for side in (own, other) if side.room is not None), default=None)
    detail = "; ".join(filter(None, (own.detail, detail)))
    return replace(own, verdict=verdict, missed=missed, room=room, detail=detail)


def _mean_ratio(pairs: Sequence[Pairs], figure: Callable[[ScoredReply, ScoredReply], float]) -> Clustered:
    """Geometric mean over replies, its error clustered by dialogue."""
    logs = np.array([sum(math.log(figure(ref, cand)) for ref, cand in group) for group in pairs])
    return clustered_ratio(logs, np.array([float(len(group)) for group in pairs])).exp()


def _characters(text: str) -> int:
    return max(1, len(text.strip()))


def _tokens(reply: ScoredReply) -> int:
    """A reply that ran to the cap counts as the cap; an empty one as one token."""
    return max(1, reply.tokens if reply.stopped else reply.cap)


def _content(pairs: Sequence[Pairs], margins: Margins, edition: int) -> list[GateCheck]:
    greedy = [[pair for pair in group if pair[0].seed is None] for group in pairs]
    own, other = (
        np.array([sum(reply_metrics.chrf(pair[k].text, pair[k].reference) for pair in group) for group in greedy])
        for k in (0, 1)
    )
    near = "chrF to the human reply"
    changes = [(near, clustered_ratio(other - own, own), margins.chrf)] if own.sum() > 0 else []
    diversity = reply_metrics.diversity_changes(pairs, at_equal_length=edition >= 4)
    changes += [(name, change, margins.diversity) for name, change in diversity.items()]
    checks = [
        _check(("G5", name, "share"), change, f"lower bound of the relative change > -{margin:.0%}", low=-margin)
        for name, change, margin in changes
    ]
    if not own.sum():  # in another script, or nothing at all
        far = "the original says nothing that people say: there is no nearness to lose"
        checks.insert(0, GateCheck("G5", near, "PASS", None, "where the original is near to people", far))
    if len(diversity) < 2:  # an intent a reply, say
        alike = "the original's replies are of one word, or all alike: there is no diversity to lose"
        checks.append(GateCheck("G5", "diversity", "PASS", None, "where replies have several words", alike))
    return checks


def _facts(pairs: Sequence[Pairs], known: Sequence[Facts], margins: Margins) -> GateCheck:
    """Values that people repeat and the model does not, greedy replies; a lack of values is no lack of quality."""
    about, by_turn = ("G6", "facts not carried", "share"), {(f.dialogue, f.turn): f for f in known}
    rows, unfounded, replies = list[Floats](), np.zeros(4), 0
    for group in pairs:
        row = np.zeros(3)  # values that the reference and the candidate lack, values
        for ref, cand in (pair for pair in group if pair[0].seed is None):
            if (fact := by_turn.get((ref.dialogue, ref.turn))) is None:
                return GateCheck(*about[:2], "FAIL", None, "every reply read", f"no facts read of {ref.dialogue}")
            n, replies = len(fact.values), replies + 1
            row += (n - facts.carried(fact, ref.text), n - facts.carried(fact, cand.text), n)
            for side, reply in enumerate((ref, cand)):
                said = facts.numbers(reply.text)
                unfounded[2 * side : 2 * side + 2] += len(said - {*fact.numbers}), len(said)
        if row[2]:
            rows.append(row)
    if len(rows) < 2:
        reason = f"people repeat values in {len(rows)} of {len(pairs)} dialogues: there is nothing to carry"
        return GateCheck(*about[:2], "PASS", None, "where people repeat values", reason)
    missed_ref, missed, values = np.array(rows).T
    limit = max(margins.facts, margins.facts_replies * replies / values.sum())
    rule = f"upper bound of the difference in the share of values < {limit:.1%}"
    check = _check(about, rate_difference(missed_ref, missed, values), rule, high=limit)
    if check.n_needed:  # of dialogues with values; the others are there too
        needed = math.ceil(check.n_needed * len(pairs) / len(rows))
        check = replace(check, n_needed=needed, detail=f"needs about {needed} dialogues")
    own, original = (f"{1 - side.sum() / values.sum():.0%}" for side in (missed, missed_ref))
    free, theirs = (f"{n:.0f} of {of:.0f}" for n, of in (unfounded[2:], unfounded[:2]))
    carried = f"carries {own} of {values.sum():.0f} values, the original {original}"
    nowhere = f"numbers that stand nowhere before: {free}, the original's {theirs}"
    return replace(check, detail="; ".join(filter(None, (check.detail, carried, nowhere))))


def _fit(known: Sequence[Fit], margins: Margins, edition: int) -> list[GateCheck]:
    """How often a reply is taken for another dialogue's: on average, and plainly."""
    if sum(bool(f.reference) for f in known) < 2 or not all(f.candidate for f in known):
        return [GateCheck("G7", "data", "FAIL", None, "two or more dialogues", "no data never passes")]
    asked = np.array([bool(f.reference) for f in known])  # what the original says is known of some, people's of all
    parties = [f.candidate for f in known], [f.reference for f in known if f.reference], [f.people for f in known]
    shares = [1 - fit.share_of_own(log_p) for log_p in parties]
    plain = [(share > 1 - fit.PLAINLY).astype(float) for share in shares]
    return [
        _beside_the_worse("fits another dialogue", shares, asked, margins.misfit, edition),
        _beside_the_worse("plainly another dialogue's", plain, asked, margins.plain_misfit, edition),
    ]


def _beside_the_worse(
    name: str, shares: Sequence[Floats], asked: NDArray[np.bool_], margin: float, edition: int = EDITION
) -> GateCheck:
    """A judge favours its own words, so people are as good a measure as the original: whichever is worse. Of two tests
    one must hold, so each has half of the 5 %. shares: of the candidate, the original where ``asked``, people.
    The room is that beside people, of whom more can be asked for nothing; None = it holds beside the original alone."""
    own, ref, people = shares
    rule = f"upper bound of the difference to the original's, or to people's, < {margin:.0%} of replies"
    alpha = ALPHA / 2 if edition >= 5 else ALPHA
    sides = (ref, own[asked]), (people, own)
    rises = [rate_difference(other, mine, np.ones(len(mine)), alpha) for other, mine in sides]
    tests = [_check(("G7", name, "share"), replace(rise, alpha=ALPHA / 2), rule, high=margin) for rise in rises]
    verdicts = {test.verdict for test in tests}
    nearer = min(tests, key=lambda test: test.estimate.hi if test.estimate else math.inf)
    verdict: Verdict = "PASS" if "PASS" in verdicts else "FAIL" if verdicts == {"FAIL"} else "INCONCLUSIVE"
    if verdict == "INCONCLUSIVE" and nearer.n_needed is None:
        worse = min(rises, key=lambda rise: rise.mean)
        nearer = replace(nearer, detail=f"{nearer.detail}, which about {worse.needed(worse.mean - margin)} would prove")
    figures = f"candidate {own.mean():.1%}, original {ref.mean():.1%}, people {people.mean():.1%} of {len(own)} replies"
    if not asked.all():
        figures += f", the original's of {len(ref)}"
    room = tests[1].room if tests[1].verdict == "PASS" else None
    return replace(nearer, verdict=verdict, room=room, detail="; ".join(filter(None, (nearer.detail, figures))))


def _check(
    about: tuple[str, str, str], figure: Clustered, rule: str, *, low: float = -math.inf, high: float = math.inf
) -> GateCheck:
    """PASS where the whole interval lies within ``low`` and ``high``, FAIL where all of it lies beyond one of them.

    With both limits it is equivalence by two one-sided tests. about: layer, name and unit.
    """
    layer, name, unit = about
    verdict: Verdict = "INCONCLUSIVE"
    if low < figure.lo and figure.hi < high:
        verdict = "PASS"
    elif figure.hi < low or figure.lo > high:
        verdict = "FAIL"
    needed, detail = None, ""
    if verdict == "INCONCLUSIVE":
        needed = figure.needed(min(figure.mean - low, high - figure.mean))
        detail = f"needs about {needed} dialogues" if needed else "the estimate itself lies beyond the margin"
    equal = 1.0 if unit == "x" else 0.0
    missed = max(0.0, (low - figure.lo) / (equal - low or 1.0), (figure.hi - high) / (high - equal or 1.0))
    room = min(figure.lo - low, high - figure.hi) / figure.half if figure.half else None
    return GateCheck(layer, name, verdict, figure.estimate(unit), rule, detail, needed, missed, room)
