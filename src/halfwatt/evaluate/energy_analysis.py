"""From raw windows to figures per reply. Pure: `halfwatt verify` calls the same functions on the stored windows.

    E_gross/reply = mean over blocks, of the mean over a block's windows, of (joules at the end edge - joules at the
                    start edge) / replies completed;
                    without a counter: of the joules that `meters.modelled` gives for what the window used
    E_net/reply   = E_gross/reply - P_loaded_idle * s/reply
    ratio         = exp(mean over blocks of log(base_b / cand_b)), interval from the spread between blocks

A window holds whole replies; the divisor is always replies completed. Discarded windows count nowhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

from halfwatt.core.errors import BadInput
from halfwatt.core.estimate import Estimate
from halfwatt.core.statistics import difference, log_ratio, mean, widened
from halfwatt.evaluate.records import Measurement, Phase, Window
from halfwatt.meters.base import MeterInfo
from halfwatt.meters.modelled import modelled_joules
from halfwatt.meters.ticks import resolved

Figure = Callable[[Window], float]


def per_block(arm: str, windows: Sequence[Window], figure: Figure, phase: Phase = "reply") -> dict[int, float]:
    """The mean of ``figure`` over the windows of one arm and phase that count, in each block."""
    blocks: dict[int, list[float]] = {}
    for window in windows:
        if window.arm == arm and window.phase == phase and not window.discarded:
            blocks.setdefault(window.block, []).append(figure(window))
    return {block: fmean(values) for block, values in sorted(blocks.items())}


def cpu_s_per_reply(w: Window) -> float:
    """Measured CPU-seconds (user + system, all threads of the process under test) per reply."""
    return w.consumption.cpu_s / w.replies


def joules(meter: MeterInfo) -> Figure:
    """Joules per reply by one meter."""
    return lambda w: window_joules(w, meter) / w.replies


def window_joules(w: Window, meter: MeterInfo) -> float:
    """Joules of one window by one meter: what its counter rose by, or what the model gives for the window's use.

    Raises:
        MeterError: too few updates of the counter to mean anything, or it did not move; work never costs 0 J.
    """
    if meter.cores is not None:
        return resolved(meter, modelled_joules(w.consumption, meter.cores), w.end_s - w.start_s)
    start, end = w.readings[meter.name]
    return resolved(meter, end.joules - start.joules, w.end_s - w.start_s)


def measurement(arm: str, windows: Sequence[Window], meter: MeterInfo | None) -> Measurement:
    """What one arm used per reply. Energy is absent (grade F) when there is no meter.

    Raises:
        BadInput: the arm has no window that counts.
        MeterError: a window that its meter cannot resolve.
    """
    own = [w for w in windows if w.arm == arm and w.phase in ("reply", "prefill")]
    clean = {w.phase for w in own if not w.discarded}
    if "reply" not in clean:
        raise BadInput(f"no clean window of arm {arm}")

    def estimate(figure: Figure, unit: str, phase: Phase = "reply") -> Estimate:
        return mean(list(per_block(arm, windows, figure, phase).values()), unit)

    gross = net = per_token = prefill = decode = watts = None
    if meter is not None:
        gross = estimate(joules(meter), "J/reply")
        per_token = estimate(lambda w: window_joules(w, meter) / w.tokens_out, "J/token")
        watts = estimate(lambda w: window_joules(w, meter) / w.consumption.wall_s, "W")
        if (idle_w := idle_watts(windows, meter.name)) is not None:
            net = estimate(lambda w: (window_joules(w, meter) - idle_w * (w.end_s - w.start_s)) / w.replies, "J/reply")
        if "prefill" in clean:
            prefill = estimate(joules(meter), "J/reply", "prefill")
            decode = difference(gross, prefill)
    return Measurement(
        arm=arm,
        meter=None if meter is None else meter.name,
        grade="F" if meter is None else meter.grade,
        kind=None if meter is None else meter.kind,
        j_per_reply=gross,
        j_per_reply_net=net,
        j_per_token=per_token,
        j_prefill=prefill,
        j_decode=decode,
        watts=watts,
        cpu_s_per_reply=estimate(cpu_s_per_reply, "CPU-s/reply"),
        s_per_reply=estimate(lambda w: w.consumption.wall_s / w.replies, "s/reply"),
        tokens_per_reply=estimate(lambda w: w.tokens_out / w.replies, "tokens/reply"),
        tokens_in_per_reply=estimate(lambda w: w.tokens_in / w.replies, "tokens/reply"),
        windows=sum(not w.discarded for w in own),
        discarded=sum(w.discarded for w in own),
    )


def ratio(base: str, cand: str, windows: Sequence[Window], figure: Figure, systematic: float = 0.0) -> Estimate:
    """Baseline over candidate, paired by block: 15 means fifteen times less.

    Args:
        systematic: the meter's `ratio_error`, joined to the statistical half-width in quadrature on the log scale.

    Raises:
        BadInput: fewer than two blocks hold both arms.
    """
    a, b = per_block(base, windows, figure), per_block(cand, windows, figure)
    common = sorted(a.keys() & b.keys())
    if len(common) < 2:
        raise BadInput(f"{len(common)} block(s) hold both {base} and {cand}", hint="two or more are needed")
    return widened(log_ratio([a[k] for k in common], [b[k] for k in common]), systematic)


def energy_ratio(base: str, cand: str, windows: Sequence[Window], meter: MeterInfo | None) -> Estimate | None:
    """The ratio of joules per reply by one meter, its systematic error included; None where there was no meter."""
    return None if meter is None else ratio(base, cand, windows, joules(meter), meter.ratio_error)


def idle_watts(windows: Sequence[Window], meter: str) -> float | None:
    """Mean power while nothing was asked of the loaded models; None when idle was not measured."""
    idle = [w for w in windows if w.phase == "loaded_idle" and meter in w.readings and not w.discarded]
    if not idle:
        return None
    return fmean((w.readings[meter][1].joules - w.readings[meter][0].joules) / (w.end_s - w.start_s) for w in idle)
