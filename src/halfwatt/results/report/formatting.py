"""Numbers as people read them. An energy number is never separated from its grade, nor an absent one turned into 0.

Energy is shown in one of two ways, never mixed in a column:

    measured or replayed   J/reply with its interval and grade:  "1.32 [1.30 to 1.34] B"
    modelled               how much of B1's energy it takes:     "0.49 [0.33 to 0.73] E modelled"

Modelled joules are not printed as joules, since a model claims ratios only. They are given against B1 and not against
B0, because B1 is the arm that every run holds: each row's ratio is then paired within one run. The ratios against both
baselines stand in the headline.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

from halfwatt.core.estimate import Estimate
from halfwatt.evaluate.gate import likelihood_check
from halfwatt.evaluate.records import GateCheck, Measurement, Outside, Profile, QualityReport
from halfwatt.meters.base import Grade, Kind, MeterInfo
from halfwatt.models.lineage import KeptLayer
from halfwatt.results.payback import Payback
from halfwatt.results.result import Ledger
from halfwatt.results.tables import Row, absolute_joules
from halfwatt.runtimes.base import OperatingPoint

if TYPE_CHECKING:
    from halfwatt.search.predict import PredictionTable

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
    interval: str  # "" when there is none
    origin: str  # "E modelled", "B", "measured", or the reason for the absence
    grade: Grade | None  # None: not an energy number, or absent

    @property
    def absent(self) -> bool:
        return self.value == ABSENT

    @property
    def line(self) -> str:
        """All of it in one line."""
        bracket = f" [{self.interval}]" if self.interval else ""
        origin = f" ({self.origin})" if self.absent else f" {self.origin}" if self.origin else ""
        return f"{self.value}{bracket}{origin}"


def figure(e: Estimate | None, origin: str, grade: Grade | None = None, *, scale: float = 1.0) -> Figure:
    """An estimate times ``scale``; for an absent one ``origin`` is the reason."""
    if e is None:
        return absent(origin)
    return Figure(_mean(e, scale), _interval(e, scale), origin, grade)


def absent(why: str) -> Figure:
    """What was not measured."""
    return Figure(ABSENT, "", why, None)


def origin(grade: Grade, kind: Kind | None) -> str:
    """``B`` for a measured number; modelled and replayed ones say so."""
    return grade if kind in (None, "measured") else f"{grade} {kind}"


def energy(row: Row) -> Figure:
    """The energy cell of a row of the table."""
    m = row.energy
    if m is None:
        return absent(row.trial.status if row.trial.status != "done" else "not measured")
    if m.j_per_reply is None:
        return absent("no meter")
    stated = absolute_joules(m)
    if stated is not None:
        return figure(stated, origin(m.grade, m.kind), m.grade)
    if row.trial.name == "B1":
        return Figure("1", "", origin(m.grade, m.kind), m.grade)
    return relative_energy(row)


def relative_energy(row: Row) -> Figure:
    """Energy per reply as a share of B1's in the same run."""
    m = row.energy
    if m is None or row.energy_vs_B1 is None:
        return absent("no meter" if m is not None else "not measured")
    return figure(row.energy_vs_B1, origin(m.grade, m.kind), m.grade)


def energy_unit(measurements: tuple[Measurement, ...]) -> str:
    """Head of the energy column."""
    if any(absolute_joules(m) is not None for m in measurements):
        return "J/reply"
    return "energy/reply (B1 = 1)" if any(m.j_per_reply for m in measurements) else "energy/reply"


def cpu_ms(m: Measurement | None) -> Figure:
    """CPU-milliseconds per reply, as the operating system counted them."""
    return figure(None if m is None else m.cpu_s_per_reply, "measured" if m else "not measured", scale=1000)


def measured(e: Estimate | None) -> Figure:
    """A number that is no energy number: tokens, seconds."""
    return figure(e, "measured" if e else "not measured")


def short(e: Estimate | None) -> str:
    """The mean alone, to three digits, for narrow columns."""
    return ABSENT if e is None else f"{e.mean:.3g}"


def times(ratio: Estimate | None, grade: Grade | None, kind: Kind | None) -> Figure:
    """A ratio of the claim, baseline over winner. ``grade`` None: not an energy ratio."""
    if ratio is None:
        return absent("no energy number: no meter")
    return figure(ratio, "measured" if grade is None else origin(grade, kind), grade)


def plan_errors(found: PredictionTable) -> list[str]:
    """How far the ratios of a plan may be off, for each kind of device in it."""
    lines = []
    for kind in dict.fromkeys(p.hardware.kind for p in found.predictions):
        ratio = next(p.energy_ratio for p in found.predictions if p.hardware.kind == kind)
        seen = f"{ratio.n} measurements" + (" of GPUs, none of a TPU" if kind == "tpu" else "")
        lines.append(f"{kind}: each within a factor of {ratio.hi / ratio.mean:.2f}, as on a device left out of {seen}")
    return [f"PREDICTED (grade {found.grade}, {found.kind}): ratios only, no joules", *lines]


def origin_line(info: MeterInfo | None) -> str:
    """Where the energy numbers come from, in words."""
    if info is None:
        return "NO ENERGY NUMBER (grade F: no meter and no model for this device)"
    return f"{info.kind.upper()} (grade {info.grade}: {info.covers}; not covered: {info.not_covered})"


def joules(m: Measurement, *, net: bool = False) -> Figure:
    """J/reply, gross or net of loaded idle, where joules may be stated."""
    if m.j_per_reply is None:
        return absent("no meter")
    if absolute_joules(m) is None:
        return absent(f"grade {m.grade}: a model gives ratios, not joules")
    if net and m.j_per_reply_net is None:
        return absent("idle not measured")
    return figure(m.j_per_reply_net if net else m.j_per_reply, origin(m.grade, m.kind), m.grade)


def check_figure(check: GateCheck) -> Figure:
    """The estimate of a line of the gate; the exact checks have none."""
    e = check.estimate
    if e is None:
        return absent("exact check")
    return figure(e, "%", scale=100) if e.unit == "share" else figure(e, e.unit)


def gate_lines(report: QualityReport) -> tuple[GateCheck, ...]:
    """The checks to list: the exact ones of G0 as one line when all of them hold, else each by itself."""
    exact = [c for c in report.checks if c.layer == "G0"]
    if len(exact) < 2 or any(c.verdict != "PASS" for c in exact):
        return report.checks
    names = "; ".join(c.name for c in exact)
    one = f"integrity, {len(exact)} exact checks"
    folded = GateCheck("G0", one, "PASS", None, "exact", f"{names} ({exact[0].detail})")
    return (folded, *(c for c in report.checks if c.layer != "G0"))


def remarks(check: GateCheck) -> str:
    """What a check says beside its numbers, with the dialogues that it would take when it is undecided."""
    said = [check.detail] if check.detail else []
    if check.n_needed and str(check.n_needed) not in check.detail:
        said.append(f"needs about {check.n_needed} dialogues")
    return "; ".join(said)


def outside(met: Outside) -> str:
    """What was lost on dialogues of another kind, in one line."""
    report, check = met.quality, likelihood_check(met.quality.checks)
    head = f"{met.kind}: {report.verdict} on {report.dialogues} dialogues"
    if check is None:
        return f"{head}, " + "; ".join(c.detail for c in report.checks if c.verdict == "FAIL")
    lost = f"{head}, {check_figure(check).line} log-likelihood lost"
    if report.kl_mean is None or report.top1 is None:  # nowhere the same tokens to compare
        return f"{lost}, written with other tokens: its vocabulary was trimmed"
    return f"{lost}, mean KL {report.kl_mean:.2g} nats, same top token {report.top1:.0%}"


def price(paid: Payback) -> str:
    """What training cost, and the replies until it is repaid."""
    took = [f"{paid.trial}: trained on {paid.tokens:,} tokens"]
    if paid.cpu_s is not None:
        took.append(f"{paid.cpu_s:,.0f} CPU-s")
    if paid.joules is not None and paid.kind != "modelled":
        took.append(f"{paid.joules:,.0f} J {paid.kind}")
    ways = [] if paid.cpu_s is None else [f"{_replies(paid.replies_by_cpu_s)} replies (CPU time)"]
    if paid.alike:
        ways.append(f"{_replies(paid.replies_by_joules)} replies (energy, {paid.kind})")
    if not ways:
        return ", ".join(took) + " on another device than it answers on, by no measure that both have"
    return ", ".join(took) + "; repaid after " + ", ".join(ways)


def cost_of_search(told: Ledger) -> str:
    """What finding it took, and the replies and days until that is repaid."""
    trained = "" if not told.training_s else f" and {told.training_s:,.0f} CPU-s of training"
    measured = "" if told.joules is None else f", {told.joules:,.0f} J measured"
    days = ", ".join(f"{_days(due.days)} at {due.replies_per_hour:,g}" for due in told.due)
    return (
        f"Finding it took {told.search_s:,.0f} CPU-s{trained}{measured}; "
        f"repaid after {_replies(told.replies)} replies"
        + (f": {days} an hour" if days else "")
        + (" (training ran on another device and is not in it)" if told.training_s is None else "")
    )


def _days(e: Estimate) -> str:
    if e.mean < 1:
        return f"{24 * e.mean:.1f} hours"
    return f"{e.mean:.1f} days" if e.mean < 10 else f"{e.mean:,.0f} days"


def apart(a: str, b: str) -> tuple[list[tuple[str, bool]], list[tuple[str, bool]]]:
    """Two replies in pieces that add up to them; True where the other has other words."""
    words: list[list[str]] = [re.findall(r"\s+|\S+", text) for text in (a, b)]
    pieces: tuple[list[tuple[str, bool]], list[tuple[str, bool]]] = ([], [])
    for kind, *spans in SequenceMatcher(None, words[0], words[1], autojunk=False).get_opcodes():
        for made, own, (start, end) in zip(pieces, words, (spans[:2], spans[2:]), strict=True):
            if start < end:
                made.append(("".join(own[start:end]), kind != "equal"))
    return pieces


def megabytes(size_b: int | None) -> str:
    """Decimal megabytes."""
    if size_b is None:
        return ABSENT
    mb = size_b / 1e6
    return f"{mb:,.0f}" if mb >= 100 else f"{mb:.3g}"


def kept(layers: Sequence[KeptLayer]) -> list[str]:
    """The layers at higher precision, one line per reason."""
    by_reason: dict[tuple[str, str], list[str]] = {}
    for layer in layers:
        by_reason.setdefault((layer.kept_as, layer.reason), []).append(layer.tensor)
    return [f"kept at {kept_as}: {_some(names)} ({reason})" for (kept_as, reason), names in by_reason.items()]


def served(at: OperatingPoint) -> str:
    """An operating point: threads, how it guesses ahead, how many it answers at once, how it keeps its cache."""
    ahead = _shared(at)
    if at.speculation is not None:
        source = {"table": "by its table of drafts", "lookup": "by what stood in the dialogue"}[at.speculation.kind]
        ahead += f", guesses up to {at.speculation.longest} tokens ahead {source}"
    if at.threads is None:
        return f"default threads{ahead}"
    one = _threads(at.threads)
    return (one if at.threads_prefill in (None, at.threads) else f"{one}, prefill {at.threads_prefill}") + ahead


def _shared(at: OperatingPoint) -> str:
    return (f", {at.batch} at once" if at.batch > 1 else "") + (f", {at.kv_bits}-bit cache" if at.kv_bits < 16 else "")


def _threads(count: int) -> str:
    return f"{count} thread" + ("s" if count > 1 else "")


def traffic(asked: Profile) -> str:
    """What the figures per reply were measured on."""
    lengths = asked.prompt_tokens, asked.human_reply_tokens
    prompt, reply = (f"{middle:.0f} tokens (95 %: {long:.0f})" for middle, long in lengths)
    return (
        f"{asked.dialogues} dialogues, {asked.replies_per_dialogue:.1f} replies each; prompts of {prompt}, "
        f"{asked.repeated:.0%} of them from the turns before; human replies of {reply}"
        + (f"; {asked.users} users ask at once" if asked.users > 1 else "")
        + (f"; {asked.replies_per_hour:,g} replies an hour" if asked.replies_per_hour else "")
    )


def decoding(at: OperatingPoint) -> str:
    """How a reply is written, in a few words."""
    threads = ("default threads" if at.threads is None else _threads(at.threads)) + _shared(at)
    if at.speculation is None:
        return threads
    table = f"{at.speculation.longest} by table, p {at.speculation.least:g}"
    return f"{threads}, " + (table if at.speculation.kind == "table" else f"{at.speculation.longest} by lookup")


def _replies(e: Estimate | None) -> str:
    return "no number of" if e is None else f"{_rounded(e.mean)} [{_rounded(e.lo)} to {_rounded(e.hi)}]"


def _rounded(count: float) -> str:
    """A count to two digits."""
    return f"{float(f'{count:.2g}'):,.0f}"


def _some(names: Sequence[str], limit: int = 3) -> str:
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")


def _mean(e: Estimate, scale: float) -> str:
    return _plain(e.mean * scale, _decimals(e, scale))


def _interval(e: Estimate, scale: float) -> str:
    decimals = _decimals(e, scale)
    return f"{_plain(e.lo * scale, decimals)} to {_plain(e.hi * scale, decimals)}"


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


def _plain(value: float, decimals: int) -> str:
    text = f"{value:,.{decimals}f}"
    return text.replace("-", "\N{MINUS SIGN}") if float(text.replace(",", "")) else text.lstrip("-")
