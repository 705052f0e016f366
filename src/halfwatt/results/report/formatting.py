"""Numbers as people read them. An energy number is never separated from its grade, nor an absent one turned into 0.

Energy is shown in one of two ways, never mixed in a column:

    measured or replayed   J/reply with its interval and grade:  "1.32 [1.30 to 1.34] B"
    modelled               how much of B1's energy it takes:     "0.49 [0.33 to 0.73] E modelled"

A model claims ratios only, so its joules are not printed. They are given against B1, the arm that every run holds: each
row's ratio is then paired within one run. The ratios against both baselines stand in the headline.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from halfwatt.core.estimate import Estimate
from halfwatt.evaluate.gate import likelihood_check
from halfwatt.evaluate.records import Claim, GateCheck, Measurement, Mixed, Outside, Profile, QualityReport
from halfwatt.evaluate.saving_explained import SavingExplained
from halfwatt.formats.artifact import Parity
from halfwatt.meters.base import Grade, MeterInfo
from halfwatt.models.lineage import KeptLayer
from halfwatt.results.payback import Ledger, Payback
from halfwatt.results.result import Result
from halfwatt.results.tables import Row, absolute_joules, paybacks
from halfwatt.runtimes.base import OperatingPoint
from halfwatt.search.trial import Trial

DASH = ABSENT = "\N{EN DASH}"

GRADES: dict[Grade, str] = {
    "A": "wall meter or battery: the whole system",
    "B": "hardware energy counter of the device that does the work",
    "C": "hardware power samples, integrated",
    "D": "model calibrated on this device: ratios within 30 %",
    "E": "generic model: ratios within 50 %, no joules",
    "F": "no energy number: CPU-seconds, bytes and tokens under their own names",
}


@dataclass(frozen=True, slots=True)
class Figure:
    """A number ready for print. ``value`` is `ABSENT` when it was not measured; ``origin`` then says why."""

    value: str
    interval: str = ""
    origin: str = ""  # "E modelled", "B", "measured", or the reason for the absence
    grade: Grade | None = None  # None: not an energy number, or absent

    @property
    def absent(self) -> bool:
        return self.value == ABSENT

    @property
    def line(self) -> str:
        """All of it in one line."""
        bracket = f" [{self.interval}]" if self.interval else ""
        origin = f" ({self.origin})" if self.absent else f" {self.origin}" if self.origin else ""
        return f"{self.value}{bracket}{origin}"


def figure(e: Estimate, origin: str = "", grade: Grade | None = None, *, scale: float = 1.0) -> Figure:
    """An estimate times ``scale``."""
    decimals = _decimals(e, scale)
    mean, lo, hi = (_decimal(x * scale, decimals) for x in (e.mean, e.lo, e.hi))
    return Figure(mean, f"{lo} to {hi}", origin, grade)


def absent(why: str) -> Figure:
    """What was not measured."""
    return Figure(ABSENT, origin=why)


def measured(e: Estimate, *, scale: float = 1.0) -> Figure:
    """A number that is no energy number: CPU time, tokens, seconds."""
    return figure(e, "measured", scale=scale)


def graded(e: Estimate, source: Measurement | MeterInfo | Claim) -> Figure:
    """An energy number, with the grade and kind of what it comes from."""
    return figure(e, origin(source), source.grade)


def origin(source: Measurement | MeterInfo | Claim) -> str:
    """``B`` for a measured number; modelled and replayed ones say so."""
    return source.grade if source.kind in (None, "measured") else f"{source.grade} {source.kind}"


def origin_line(info: MeterInfo | None) -> str:
    """Where the energy numbers come from, in words."""
    if info is None:
        return "NO ENERGY NUMBER (grade F: no meter and no model for this device)"
    return f"{info.kind.upper()} (grade {info.grade}: {info.covers}; not covered: {info.not_covered})"


def megabytes(size_b: int | None) -> str:
    """Decimal megabytes."""
    if size_b is None:
        return ABSENT
    mb = size_b / 1e6
    return f"{mb:,.0f}" if mb >= 100 else f"{mb:.3g}"


def _decimals(e: Estimate, scale: float) -> int:
    """As many as the half-width has (one digit; two if it begins with 1), but two to four digits of the number."""
    half = (e.hi - e.lo) / 2 * scale
    size = abs(e.mean * scale)
    leading = math.floor(math.log10(size)) if size else 0
    if half <= size / 2000:  # also an estimate of exactly 0 that never varied
        return max(0, 2 - leading)
    power = math.floor(math.log10(half))
    wanted = (1 if half / 10**power < 2 else 0) - power
    if size > half:
        wanted = max(min(wanted, 3 - leading), 1 - leading)
    return max(0, wanted)


def _decimal(value: float, decimals: int) -> str:
    text = f"{value:,.{decimals}f}"
    return text.replace("-", "\N{MINUS SIGN}") if float(text.replace(",", "")) else text.lstrip("-")


def energy(row: Row) -> Figure:
    """J/reply of a row, or its share of B1's energy where joules may not be stated."""
    m = row.trial.energy
    if m is None:
        return absent(row.trial.status if row.trial.status != "done" else "not measured")
    if m.j_per_reply is None:
        return absent("no meter")
    j_per_reply = absolute_joules(m)
    if j_per_reply is not None:
        return graded(j_per_reply, m)
    return Figure("1", "", origin(m), m.grade) if row.trial.name == "B1" else relative_energy(row)


def relative_energy(row: Row) -> Figure:
    """Energy per reply as a share of B1's in the same run."""
    if row.trial.name == "B1":
        return absent("the reference")
    if row.trial.energy is None or row.energy_vs_B1 is None:
        return absent("not measured" if row.trial.energy is None else "no meter")
    return graded(row.energy_vs_B1, row.trial.energy)


def energy_unit(measurements: tuple[Measurement, ...]) -> str:
    """Head of the energy column."""
    if any(absolute_joules(m) is not None for m in measurements):
        return "J/reply"
    return "energy/reply (B1 = 1)" if any(m.j_per_reply for m in measurements) else "energy/reply"


def per_reply(m: Measurement | None) -> dict[str, Figure]:
    """What a reply takes beside energy, by unit."""
    if m is None:
        return dict.fromkeys(("CPU-ms", "tokens", "seconds"), absent("not measured"))
    cpu_ms = measured(m.cpu_s_per_reply, scale=1000)
    return {"CPU-ms": cpu_ms, "tokens": measured(m.tokens_per_reply), "seconds": measured(m.s_per_reply)}


def joules(m: Measurement, *, net: bool = False) -> Figure:
    """J/reply, gross or net of loaded idle, where joules may be stated."""
    if m.j_per_reply is None:
        return absent("no meter")
    if absolute_joules(m) is None:
        return absent(f"grade {m.grade}: a model gives ratios, not joules")
    j_per_reply = m.j_per_reply_net if net else m.j_per_reply
    return absent("idle not measured") if j_per_reply is None else graded(j_per_reply, m)


def idle_included(j_per_reply: float | None, info: MeterInfo) -> Figure:
    """J/reply at some replies an hour; None where one copy cannot serve that many."""
    if j_per_reply is None:
        return absent("more than one copy serves")
    value = f"{j_per_reply:,.3g}" if j_per_reply < 1000 else f"{j_per_reply:,.0f}"
    return Figure(value, "", origin(info), info.grade)


def ratios(claim: Claim) -> tuple[tuple[str, str, Figure], ...]:
    """The headline: (quantity, baseline, the baseline's over that of what the claim is about)."""
    commonly, none = claim.cpu_s_ratio_vs_B0, absent("no B0: transformers does not run the original")
    return (
        ("energy", "B1", energy_ratio(claim.energy_ratio_vs_B1, claim)),
        ("energy", "B0", none if commonly is None else energy_ratio(claim.energy_ratio_vs_B0, claim)),
        ("CPU time", "B1", measured(claim.cpu_s_ratio_vs_B1)),
        ("CPU time", "B0", none if commonly is None else measured(commonly)),
    )


def causes(saving: SavingExplained | None) -> tuple[tuple[str, Figure], ...]:
    """What CPU time is saved by, B1 over what the claim is about; nothing where it is about B1."""
    if saving is None:
        return ()
    return (
        ("a token", measured(saving.a_token)),
        ("fewer tokens a reply", measured(saving.fewer_tokens)),
        ("both", measured(saving.together)),
        ("counting no reply shorter than people's", measured(saving.counted)),
    )


def energy_ratio(ratio: Estimate | None, source: Claim | MeterInfo | None) -> Figure:
    """Of two arms of one run."""
    return absent("no energy number: no meter") if ratio is None or source is None else graded(ratio, source)


def gate_lines(report: QualityReport) -> list[tuple[GateCheck, Figure, str]]:
    """Each check with its estimate, absent where it is exact, and a remark: the dialogues that it lacks, for one.

    The exact checks of G0 are one line when all of them hold.
    """
    checks = report.checks
    exact = [c for c in checks if c.layer == "G0"]
    if len(exact) > 1 and all(c.verdict == "PASS" for c in exact):
        detail = f"{'; '.join(c.name for c in exact)} ({exact[0].detail})"
        folded = GateCheck("G0", f"integrity, {len(exact)} exact checks", "PASS", None, "exact", detail)
        checks = (folded, *(c for c in checks if c.layer != "G0"))
    return [(c, _check_figure(c), _remark(c)) for c in checks]


def _check_figure(check: GateCheck) -> Figure:
    e = check.estimate
    if e is None:
        return absent("exact check" if check.layer == "G0" else "nothing to compare")
    return figure(e, "%", scale=100) if e.unit == "share" else figure(e, e.unit)


def _remark(check: GateCheck) -> str:
    undecided = check.n_needed and str(check.n_needed) not in check.detail
    return "; ".join(filter(None, (check.detail, f"needs about {check.n_needed} dialogues" if undecided else "")))


def run_remark(rows: Sequence[Row]) -> str:
    """Which rows were measured apart; empty where all were measured together."""
    apart = any(row.run == "tune" and row.trial.energy for row in rows)
    mixed = any(row.trial.mixed for row in rows)
    own = "Rows judged on the tune split were measured in a run of their own against B1"
    own += ", those in front of the original and the final run on mixed traffic" if mixed else ""
    return f"{own}; all others together, interleaved, on the sealed test split." if apart else ""


def plan_lines(result: Result) -> list[str]:
    """What the search expected to teach, and what became of each student that it taught."""
    lines = [] if result.plan is None else [f"planned: {line}" for line in result.plan.lines]
    for trial in result.trials if lines else ():
        taught = trial.mixed is None and any(step.startswith("Distil(") for step in trial.recipe)
        if trial.artifact is None or not taught:
            continue
        minutes, saving = sum(cost.wall_s for cost in trial.artifact.spent) / 60, trial.cpu_s_ratio_vs_B1
        saved = "" if saving is None else f", {saving.mean:.3g}x fewer CPU-seconds than B1"
        verdict = trial.status if trial.quality is None else trial.quality.verdict
        lines.append(f"taught: {trial.name}, {minutes:.0f} minutes{saved}, {verdict} on the tune split")
    return lines


def mixed_lines(mixed: Mixed) -> tuple[str, str]:
    """Of which traffic a cascade's figures are, and how much of it its original answers."""
    own, other = mixed.asked
    return (
        f"the traffic: {mixed.share:.0%} of the dialogues are of another kind than the user's own",
        f"the original answers {own:.1%} of what is asked of the own kind and {other:.1%} of the other: whatever "
        f"surprises by more than {mixed.nats_per_byte:.3g} nats a byte",
    )


def outside_line(outside: Outside) -> str:
    """What was lost on dialogues of another kind."""
    report, check = outside.quality, likelihood_check(outside.quality.checks)
    head = f"{outside.kind}: {report.verdict} on {report.dialogues} dialogues"
    if check is None:
        return f"{head}, " + "; ".join(c.detail for c in report.checks if c.verdict == "FAIL")
    lost = f"{head}, {_check_figure(check).line} log-likelihood lost"
    if report.kl_mean is None or report.top1 is None:  # nowhere the same tokens to compare
        return f"{lost}, written with other tokens: its vocabulary was trimmed"
    return f"{lost}, mean KL {report.kl_mean:.2g} nats, same top token {report.top1:.0%}"


def payback_lines(result: Result) -> list[str]:
    """Of every trained candidate, then of the whole search."""
    lines = [payback_line(paid) for paid in paybacks(result)]
    return lines if result.repaid is None else [*lines, ledger_line(result.repaid)]


def payback_line(paid: Payback) -> str:
    """What training cost, and the replies until it is repaid."""
    cost, ways = f"{paid.trial}: trained on {paid.tokens:,} tokens", []
    if paid.cpu_s is not None:
        cost += f", {paid.cpu_s:,.0f} CPU-s"
        ways.append(f"{_replies(paid.replies_by_cpu_s)} replies (CPU time)")
    if paid.joules is not None and paid.kind != "modelled":
        cost += f", {paid.joules:,.0f} J {paid.kind}"
    if paid.comparable:
        ways.append(f"{_replies(paid.replies_by_joules)} replies (energy, {paid.kind})")
    why_not = " on another device than it answers on, by no measure that both have"
    return f"{cost}; repaid after {', '.join(ways)}" if ways else cost + why_not


def ledger_line(ledger: Ledger) -> str:
    """What finding the winner took, and the replies and days until that is repaid."""
    training = f" and {ledger.training_s:,.0f} CPU-s of training" if ledger.training_s else ""
    joules = "" if ledger.joules is None else f", {ledger.joules:,.0f} J measured"
    days = ", ".join(f"{_days(due.days.mean)} at {due.replies_per_hour:,g}" for due in ledger.due)
    return (
        f"Finding it took {ledger.search_s:,.0f} CPU-s{training}{joules}; "
        f"repaid after {_replies(ledger.replies)} replies"
        + (f": {days} an hour" if days else "")
        + (" (training ran on another device and is not in it)" if ledger.training_s is None else "")
    )


def _days(days: float) -> str:
    return f"{24 * days:.1f} hours" if days < 1 else f"{days:,.{1 if days < 10 else 0}f} days"


def _replies(e: Estimate | None) -> str:
    """To two digits."""
    if e is None:
        return "no number of"
    mean, lo, hi = (f"{float(f'{count:.2g}'):,.0f}" for count in (e.mean, e.lo, e.hi))
    return f"{mean} [{lo} to {hi}]"


def kept_lines(layers: Sequence[KeptLayer]) -> list[str]:
    """The layers at higher precision, one line per reason."""
    by_reason: dict[tuple[str, str], list[str]] = {}
    for layer in layers:
        by_reason.setdefault((layer.kept_as, layer.reason), []).append(layer.tensor)
    return [
        f"kept at {kept_as}: {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''} ({reason})"
        for (kept_as, reason), names in by_reason.items()
    ]


def rounding_lines(parity: Parity | None) -> list[str]:
    """What the runtime loses beside the weights' own rounding, where it is much."""
    if parity is None or parity.kl_of_rounding is None:
        return []
    return [
        f"llama.cpp rounds what it multiplies integers by: KL {parity.kl_mean:.2g} nats a token, the weights' own apart"
    ]


def workload_line(profile: Profile) -> str:
    """What the figures per reply were measured on."""
    lengths = profile.prompt_tokens, profile.human_reply_tokens
    prompt, reply = (f"{middle:.0f} tokens (95 %: {long:.0f})" for middle, long in lengths)
    return (
        f"{profile.dialogues} dialogues, {profile.replies_per_dialogue:.1f} replies each; prompts of {prompt}, "
        f"{profile.repeated:.0%} of them from the turns before; human replies of {reply}"
        + (f"; {profile.users} users ask at once" if profile.users > 1 else "")
        + (f"; {profile.replies_per_hour:,g} replies an hour" if profile.replies_per_hour else "")
    )


def serving(trial: Trial) -> str:
    """How a trial is served."""
    return operating_point(trial.at) if trial.mixed is None else "each part as it is served best"


def operating_point(at: OperatingPoint, *, brief: bool = False) -> str:
    """How an artifact is served; ``brief``: how it writes a reply, without the threads that read the prompt."""
    parts = ["default threads" if at.threads is None else f"{at.threads} thread" + ("s" if at.threads > 1 else "")]
    if not brief and at.threads is not None and at.threads_prefill not in (None, at.threads):
        parts.append(f"prefill {at.threads_prefill}")
    if at.batch > 1:
        parts.append(f"{at.batch} at once")
    if at.kv_bits < 16:
        parts.append(f"{at.kv_bits}-bit cache")
    if at.speculation is not None:
        longest, table = at.speculation.longest, at.speculation.kind == "table"
        if brief:
            parts.append(f"{longest} by table, p {at.speculation.least:g}" if table else f"{longest} by lookup")
        else:
            source = "by its table of drafts" if table else "by what stood in the dialogue"
            parts.append(f"guesses up to {longest} tokens ahead {source}")
    return ", ".join(parts)
