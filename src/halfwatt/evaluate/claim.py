"""The headline of a run, from its windows and the gate alone. Pure, so that `halfwatt verify` makes it again."""

from __future__ import annotations

from collections.abc import Sequence

from halfwatt.evaluate import energy_analysis
from halfwatt.evaluate.gate import both_hold
from halfwatt.evaluate.records import Claim, ClaimVerdict, Mixed, QualityReport, Window
from halfwatt.meters.base import MeterInfo

_SENTENCES: dict[ClaimVerdict, str] = {
    "PASS": "{candidate} answers as well as the original for less",
    "FAIL": "{candidate} answers worse than the margin allows; the original is delivered in its best runtime form",
    "INCONCLUSIVE": "{candidate} could not be proven as good on {dialogues} dialogues; "
    "the original is delivered in its best runtime form",
    "NO PROVEN SAVING": "no proven saving over the original in its best runtime form, which is delivered",
}


def make_claim(
    windows: Sequence[Window],
    meter: MeterInfo | None,
    report: QualityReport,
    candidate: str,
    mixed: Mixed | None = None,
) -> Claim:
    """What the final run proves: arms "B0", where there is one, "B1" and "winner", which is ``candidate``.

    mixed: of a cascade, which has to hold on the other kind of dialogue too; its windows are of mixed traffic

    A saving is claimed only when the gate says PASS and the interval of the ratio to B1 excludes 1.
    """
    cpu_s = energy_analysis.cpu_s_per_reply
    vs_b1 = energy_analysis.ratio("B1", "winner", windows, cpu_s)
    energy_vs_b1 = energy_analysis.energy_ratio("B1", "winner", windows, meter)
    commonly = any(window.arm == "B0" for window in windows)
    verdict: ClaimVerdict = both_hold(report, mixed)
    dialogues = report.dialogues + (mixed.quality.dialogues if mixed else 0)
    if candidate == "B1" or (verdict == "PASS" and not (energy_vs_b1 or vs_b1).lo > 1):
        verdict = "NO PROVEN SAVING"
    return Claim(
        verdict=verdict,
        about=candidate,
        sentence=_SENTENCES[verdict].format(candidate=candidate, dialogues=dialogues),
        grade="F" if meter is None else meter.grade,
        kind=None if meter is None else meter.kind,
        cpu_s_ratio_vs_B0=energy_analysis.ratio("B0", "winner", windows, cpu_s) if commonly else None,
        cpu_s_ratio_vs_B1=vs_b1,
        energy_ratio_vs_B0=energy_analysis.energy_ratio("B0", "winner", windows, meter) if commonly else None,
        energy_ratio_vs_B1=energy_vs_b1,
    )
