"""The gate: does the candidate answer as well as the reference? PASS, FAIL or INCONCLUSIVE.

Non-inferiority against stated margins, paired, the dialogue as the unit. H0: "the candidate is worse than the margin".
PASS means that every layer rejects it at 5 %, one-sided, so no correction for several tests is needed: all must pass.

    G0 integrity    exact; any miss fails, and nothing else is looked at
    G1 likelihood   change of nats per assistant token
    G2 stopping     log P(EOS) where turns end, P(EOS) where they do not
    G3 failures     empty, endless, looping, leaking replies
    G4 length       tokens per reply: energy, not only style
    G5 content      chrF to the human reply, diversity of words

No data never passes; what is not finite or not paired raises.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from halfwatt.core.errors import BadInput
from halfwatt.core.settings import Margins
from halfwatt.core.statistics import Clustered, clustered_ratio, jackknife, rate_difference
from halfwatt.evaluate import reply_metrics
from halfwatt.evaluate.records import GateCheck, QualityInputs, QualityReport, ScoredReply, TeacherScore, Verdict
from halfwatt.formats.artifact import Parity

Floats = NDArray[np.float64]
Pairs = Sequence[tuple[ScoredReply, ScoredReply]]


def judge(inputs: QualityInputs, *, split: str, margins: Margins, special: Sequence[str], seed: int) -> QualityReport:
    """Judge one candidate on one split. Pure: the same inputs give the same report.

    Args:
        special: the template's special tokens, which must not show in a reply.
        seed: of the generation, for the record.

    Raises:
        BadInput: replies or scores that are not paired, or not finite.
    """
    checks = integrity_checks(inputs.parity, margins)
    if all(check.verdict == "PASS" for check in checks):
        checks += statistical_checks(inputs, margins, special)
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


def likelihood_check(report: QualityReport | None) -> GateCheck | None:
    """The check of the change in log-likelihood (G1), when the gate got that far."""
    return None if report is None else likelihood_among(report.checks)


def likelihood_among(checks: Sequence[GateCheck]) -> GateCheck | None:
    """The same, among checks that are no whole report."""
    return next((c for c in checks if c.layer == "G1" and c.estimate is not None), None)


def overall_verdict(verdicts: Sequence[Verdict]) -> Verdict:
    """PASS where every check passed, FAIL where one failed or none was made."""
    if "FAIL" in verdicts or not verdicts:
        return "FAIL"
    return "PASS" if all(v == "PASS" for v in verdicts) else "INCONCLUSIVE"


# --- G0: exact -----------------------------------------------------------------------------------------------------


def integrity_checks(parity: Parity, margins: Margins) -> list[GateCheck]:
    """Is the artifact what it claims to be? Separates an export bug from a loss by compression."""
    exact = {
        "tensors are finite": parity.finite,
        "token ids as the reference's": parity.token_ids_equal,
        "template as the reference's": parity.template_equal,
        "stop tokens as the reference's": parity.eos_equal,
        f"mean KL of the export <= {margins.parity_kl:g}": parity.finite and parity.kl_mean <= margins.parity_kl,
        f"top-1 of the export >= {margins.parity_top1:.0%}": parity.finite and parity.top1 >= margins.parity_top1,
        "checked on real dialogues": parity.dialogues > 0 and parity.tokens > 0,
    }
    detail = "; ".join(parity.problems) or (
        f"KL {parity.kl_mean:.2g}, top-1 {parity.top1:.2%} (near ties aside) over {parity.tokens} tokens "
        f"of {parity.dialogues} dialogues"
    )
    return [GateCheck("G0", name, "PASS" if holds else "FAIL", None, "exact", detail) for name, holds in exact.items()]


# --- G1 to G5 ------------------------------------------------------------------------------------------------------


def statistical_checks(inputs: QualityInputs, margins: Margins, special: Sequence[str]) -> list[GateCheck]:
    """G1 to G5; `judge` asks for them once G0 holds."""
    if len(inputs.teacher) < 2 or len(inputs.replies_ref) < 2:
        return [GateCheck("G1", "data", "FAIL", None, "two or more dialogues", "no data never passes")]
    pairs = _paired(inputs.replies_ref, inputs.replies_cand)
    return [
        *teacher_checks(inputs.teacher, margins),
        _failures(pairs, margins, special),
        _length(pairs, margins),
        *_content(pairs, margins),
    ]


def _paired(
    reference: Sequence[ScoredReply], candidate: Sequence[ScoredReply]
) -> list[list[tuple[ScoredReply, ScoredReply]]]:
    """Replies of both models to the same prompts with the same seeds, grouped by dialogue.

    Raises:
        BadInput: they do not answer the same prompts.
    """
    if len(reference) != len(candidate):
        raise BadInput(f"{len(reference)} replies of the reference against {len(candidate)} of the candidate")
    for ref, cand in zip(reference, candidate, strict=True):
        if _prompt(ref) != _prompt(cand):
            raise BadInput("replies are not paired", got=f"{_prompt(ref)} against {_prompt(cand)}")
    pairs = sorted(zip(reference, candidate, strict=True), key=lambda pair: pair[0].dialogue)
    return [list(group) for _, group in groupby(pairs, key=lambda pair: pair[0].dialogue)]


def _prompt(reply: ScoredReply) -> tuple[str, int, int | None, int]:
    return reply.dialogue, reply.turn, reply.seed, reply.cap


def teacher_checks(scores: Sequence[TeacherScore], margins: Margins) -> list[GateCheck]:
    """G1 and G2: the checks that need no replies, only both models' probabilities of the human ones."""
    return [*_likelihood(scores, margins), *_stopping(scores, margins)]


def _likelihood(scores: Sequence[TeacherScore], margins: Margins) -> list[GateCheck]:
    found = clustered_ratio(
        _column(scores, lambda s: s.nll_cand - s.nll_ref), _column(scores, lambda s: float(s.tokens))
    )
    limit = math.log1p(margins.perplexity)
    rule = f"upper bound of the change in nats per token < ln {1 + margins.perplexity:g} = {limit:.4f}"
    return [_upper("G1", "likelihood", found, limit, "nats/token", rule)]


def _stopping(scores: Sequence[TeacherScore], margins: Margins) -> list[GateCheck]:
    ends = clustered_ratio(
        _column(scores, lambda s: s.log_p_eos_cand - s.log_p_eos_ref), _column(scores, lambda s: float(s.ends))
    )
    elsewhere = clustered_ratio(_column(scores, lambda s: s.p_eos_cand), _column(scores, lambda s: s.p_eos_ref))
    down, up = 1 - margins.eos_elsewhere, 1 + margins.eos_elsewhere
    rule = f"lower bound of the change in log P(EOS) > -{margins.eos_nats:g}"
    return [
        _lower("G2", "stopping at true ends", ends, -margins.eos_nats, "nats", rule),
        _between("G2", "stopping elsewhere", elsewhere, (down, up), "x", f"P(EOS) ratio within {down:g} and {up:g}"),
    ]


def _failures(pairs: Sequence[Pairs], margins: Margins, special: Sequence[str]) -> GateCheck:
    kinds: dict[str, int] = {}
    counts = np.zeros((len(pairs), 3))  # failures of the reference, of the candidate, replies
    for row, group in zip(counts, pairs, strict=True):
        for ref, cand in group:
            named = reply_metrics.flags(cand, special)
            row += (bool(reply_metrics.flags(ref, special)), bool(named), 1)
            for kind in named:
                kinds[kind] = kinds.get(kind, 0) + 1
    found = rate_difference(counts[:, 0], counts[:, 1], counts[:, 2])
    shown = ", ".join(f"{kind} {n}" for kind, n in sorted(kinds.items())) or "none"
    totals = counts.sum(axis=0)
    detail = f"reference {totals[0]:.0f}, candidate {totals[1]:.0f} of {totals[2]:.0f} replies ({shown})"
    rule = f"upper bound of the difference in failure rate < {margins.failures:.0%}"
    return replace(_upper("G3", "failures", found, margins.failures, "share", rule), detail=detail)


def _length(pairs: Sequence[Pairs], margins: Margins) -> GateCheck:
    logs = np.array([sum(math.log(_tokens(c) / _tokens(r)) for r, c in group) for group in pairs])
    found = clustered_ratio(logs, _sizes(pairs)).exp()
    rule = f"length ratio within {margins.shorter:g} and {margins.longer:g}"
    return _between("G4", "length", found, (margins.shorter, margins.longer), "x", rule)


def _content(pairs: Sequence[Pairs], margins: Margins) -> list[GateCheck]:
    greedy = [[(r, c) for r, c in group if r.seed is None] for group in pairs]
    chrf = np.array(
        [[sum(reply_metrics.chrf(x[k].text, x[k].reference) for x in group) for k in (0, 1)] for group in greedy]
    )
    fidelity = clustered_ratio(chrf[:, 1] - chrf[:, 0], chrf[:, 0])
    ref, cand = (reply_metrics.diversity([[pair[k].text for pair in group] for group in pairs]) for k in (0, 1))
    checks = [("chrF to the human reply", fidelity, margins.chrf)]
    for name, (r, r_without), (c, c_without) in zip(("distinct-2", "bigram entropy"), ref, cand, strict=True):
        if r <= 0 or (r_without <= 0).any():
            raise BadInput(f"the reference's replies have no {name}", hint="it says next to nothing")
        checks.append((name, jackknife(c / r - 1, c_without / r_without - 1), margins.diversity))
    return [
        _lower("G5", name, found, -margin, "share", f"lower bound of the relative change > -{margin:.0%}")
        for name, found, margin in checks
    ]


def _tokens(reply: ScoredReply) -> int:
    """A reply that ran to the cap counts as the cap; an empty one as one token."""
    return max(1, reply.tokens if reply.stopped else reply.cap)


def _sizes(pairs: Sequence[Pairs]) -> Floats:
    return np.array([float(len(group)) for group in pairs])


def _column(scores: Sequence[TeacherScore], figure: Callable[[TeacherScore], float]) -> Floats:
    return np.array([figure(score) for score in scores])


# --- a bound against a margin --------------------------------------------------------------------------------------


def _upper(layer: str, name: str, found: Clustered, limit: float, unit: str, rule: str) -> GateCheck:
    verdict: Verdict = "PASS" if found.hi < limit else "FAIL" if found.lo > limit else "INCONCLUSIVE"
    return _check(layer, name, verdict, (found, unit, limit - found.mean), rule)


def _lower(layer: str, name: str, found: Clustered, limit: float, unit: str, rule: str) -> GateCheck:
    verdict: Verdict = "PASS" if found.lo > limit else "FAIL" if found.hi < limit else "INCONCLUSIVE"
    return _check(layer, name, verdict, (found, unit, found.mean - limit), rule)


def _between(layer: str, name: str, found: Clustered, limits: tuple[float, float], unit: str, rule: str) -> GateCheck:
    """Equivalence by two one-sided tests."""
    low, high = limits
    verdict: Verdict = "INCONCLUSIVE"
    if low < found.lo and found.hi < high:
        verdict = "PASS"
    elif found.hi < low or found.lo > high:
        verdict = "FAIL"
    return _check(layer, name, verdict, (found, unit, min(found.mean - low, high - found.mean)), rule)


def _check(layer: str, name: str, verdict: Verdict, figure: tuple[Clustered, str, float], rule: str) -> GateCheck:
    found, unit, distance = figure
    needed = found.needed(distance) if verdict == "INCONCLUSIVE" else None
    detail = ""
    if verdict == "INCONCLUSIVE":
        detail = f"needs about {needed} dialogues" if needed else "the estimate itself lies beyond the margin"
    return GateCheck(layer, name, verdict, found.estimate(unit), rule, detail, needed)
