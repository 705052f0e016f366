"""The headline of a run, from its windows and the gate alone. Pure, so that `halfwatt verify` makes it again."""

from __future__ import annotations

from halfwatt.core.estimate import Estimate
from halfwatt.evaluate import energy_analysis
from halfwatt.evaluate.energy_protocol import Run
from halfwatt.evaluate.records import Claim, ClaimVerdict, QualityReport


def make_claim(run: Run, report: QualityReport, candidate: str) -> Claim:
    """The headline, from the windows and the gate alone. Pure.

    A saving is claimed only when the gate says PASS and the interval of the ratio to B1 excludes 1.
    """
    figure = energy_analysis.cpu_s_per_reply
    vs_b1 = energy_analysis.ratio("B1", "winner", run.windows, figure)
    energy = energy_ratio("B1", "winner", run)
    decisive = energy or vs_b1
    verdict: ClaimVerdict
    if candidate == "B1":
        verdict = "NO PROVEN SAVING"
    elif report.verdict != "PASS":
        verdict = report.verdict
    else:
        verdict = "PASS" if decisive.lo > 1 else "NO PROVEN SAVING"
    grade = "F" if run.meter is None else run.meter.grade
    return Claim(
        verdict=verdict,
        about=candidate,
        sentence=_sentence(verdict, candidate, report),
        grade=grade,
        kind=None if run.meter is None else run.meter.kind,
        cpu_s_ratio_vs_B0=energy_analysis.ratio("B0", "winner", run.windows, figure),
        cpu_s_ratio_vs_B1=vs_b1,
        energy_ratio_vs_B0=energy_ratio("B0", "winner", run),
        energy_ratio_vs_B1=energy,
    )


def _sentence(verdict: ClaimVerdict, candidate: str, report: QualityReport) -> str:
    said: dict[ClaimVerdict, str] = {
        "PASS": f"{candidate} answers as well as the original for less",
        "FAIL": f"{candidate} answers worse than the margin allows; the original is delivered in its best runtime form",
        "INCONCLUSIVE": f"{candidate} could not be proven as good on {report.dialogues} dialogues; "
        "the original is delivered in its best runtime form",
        "NO PROVEN SAVING": "no proven saving over the original in its best runtime form, which is delivered",
    }
    return said[verdict]


def energy_ratio(base: str, cand: str, run: Run) -> Estimate | None:
    """Joules of ``base`` over joules of ``cand``; None when the run had no meter."""
    return None if run.meter is None else energy_analysis.energy_ratio(base, cand, run.windows, run.meter)
