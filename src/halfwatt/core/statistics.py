"""Interval arithmetic of the measuring protocol and of the gate. Pure.

Units of observation are independent: a block of windows, a dialogue; never a token. `mean`, `log_ratio`, `difference`
give two-sided 95 % intervals, `Clustered` one-sided 95 % bounds: a non-inferiority gate asks in one direction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from halfwatt.core.errors import BadInput
from halfwatt.core.estimate import Estimate

Floats = NDArray[np.float64]
ALPHA = 0.05
_Z_POWER = float(stats.norm.ppf(0.8))


def mean(values: Sequence[float], unit: str) -> Estimate:
    """Mean with its two-sided 95 % t interval.

    Raises:
        BadInput: fewer than two values: one value has no interval.
    """
    centre, half = _mean_and_half(np.asarray(values, float))
    return Estimate(centre, centre - half, centre + half, unit, len(values))


def log_ratio(base: Sequence[float], cand: Sequence[float]) -> Estimate:
    """Geometric mean of ``base / cand`` over paired repeats, with its two-sided 95 % t interval on the log scale.

    Raises:
        BadInput: fewer than two pairs, or a value that is not positive.
    """
    a, b = np.asarray(base, float), np.asarray(cand, float)
    if (a <= 0).any() or (b <= 0).any():
        raise BadInput("a ratio needs positive figures", got=f"{min(a.min(), b.min()):.3g}")
    centre, half = _mean_and_half(np.log(a / b))
    return Estimate(math.exp(centre), math.exp(centre - half), math.exp(centre + half), "x", len(a))


def widened(ratio: Estimate, systematic: float) -> Estimate:
    """Join a systematic 95 % error (0.5 = +-50 %) to a ratio's interval."""
    return product(ratio, Estimate(1.0, 1 / (1 + systematic), 1 + systematic, "x", ratio.n))


def product(one: Estimate, other: Estimate) -> Estimate:
    """Of two independent ratios, half-widths in quadrature on the log scale."""
    down = math.hypot(math.log(one.mean / one.lo), math.log(other.mean / other.lo))
    up = math.hypot(math.log(one.hi / one.mean), math.log(other.hi / other.mean))
    mean = one.mean * other.mean
    return Estimate(mean, mean * math.exp(-down), mean * math.exp(up), "x", min(one.n, other.n))


def difference(a: Estimate, b: Estimate) -> Estimate:
    """``a - b`` of two independent estimates, half-widths in quadrature."""
    down, up = math.hypot(a.mean - a.lo, b.hi - b.mean), math.hypot(a.hi - a.mean, b.mean - b.lo)
    centre = a.mean - b.mean
    return Estimate(centre, centre - down, centre + up, a.unit, min(a.n, b.n))


def _mean_and_half(values: Floats) -> tuple[float, float]:
    n = len(values)
    if n < 2:
        raise BadInput("an interval needs two or more repeats", got=str(n))
    return float(values.mean()), float(stats.t.ppf(1 - ALPHA / 2, n - 1) * stats.sem(values))


def _dialogues(values: Floats) -> int:
    if len(values) < 2:
        raise BadInput("the gate needs two or more dialogues", got=str(len(values)))
    return len(values)


@dataclass(frozen=True, slots=True)
class Clustered:
    """A quantity over ``n`` dialogues with its standard error; ``lo`` and ``hi`` are one-sided bounds."""

    mean: float
    se: float
    n: int
    floor: float = 0.0  # the least distance between the mean and a bound
    alpha: float = ALPHA  # that a bound is on the wrong side

    @property
    def half(self) -> float:
        """Between the mean and a bound."""
        return max(self.floor, float(stats.t.ppf(1 - self.alpha, self.n - 1)) * self.se)

    @property
    def lo(self) -> float:
        return self.mean - self.half

    @property
    def hi(self) -> float:
        return self.mean + self.half

    def estimate(self, unit: str) -> Estimate:
        """As a record."""
        return Estimate(self.mean, self.lo, self.hi, unit, self.n)

    def exp(self) -> Clustered:
        """The quantity on the log scale, as a ratio; the error by the delta method."""
        return Clustered(math.exp(self.mean), math.exp(self.mean) * self.se, self.n)

    def needed(self, distance: float) -> int | None:
        """Dialogues for 80 % power to bring a bound inside ``distance``: n ((z_(1 - alpha) + z_80) se / distance)^2.

        None when the estimate itself lies beyond the margin: more dialogues would not help.
        """
        if distance <= 0:
            return None
        z = float(stats.norm.ppf(1 - self.alpha))
        return max(self.n + 1, math.ceil(self.n * ((z + _Z_POWER) * self.se / distance) ** 2))


def clustered_ratio(x: Floats, size: Floats) -> Clustered:
    """``sum x / sum size`` over dialogues, with the error of the ratio estimator:

        r = sum(x_d) / sum(L_d),   se = sqrt(D / (D - 1) * sum((x_d - r L_d)^2)) / sum(L_d)

    x, size: [dialogues].

    Raises:
        BadInput: fewer than two dialogues, nothing to divide by, or a value that is not finite.
    """
    n, total = _dialogues(x), float(size.sum())
    if not (np.isfinite(x).all() and np.isfinite(size).all()) or total <= 0:
        raise BadInput("the gate was given figures that are not finite or empty", got=f"sum {total:.3g}")
    r = float(x.sum()) / total
    return Clustered(r, math.sqrt(n / (n - 1) * float(((x - r * size) ** 2).sum())) / total, n)


def rate_difference(reference: Floats, candidate: Floats, size: Floats, alpha: float = ALPHA) -> Clustered:
    """Paired difference of failure rates over dialogues with several replies each.

    reference, candidate: failures per dialogue, [dialogues]; size: replies per dialogue; alpha: of each bound.

    The ratio estimator alone is blind when no pair disagrees. Two pseudo-dialogues, one with a failure more and one
    with a failure less, give the adjusted Wald interval of Bonett and Price (2012); the bound is never nearer than the
    score interval's at zero discordance, z^2 / (n + z^2) (Tango 1998), so that the number of dialogues always decides.
    """
    rise, typical = candidate - reference, float(size.mean())
    observed = clustered_ratio(rise, size)
    adjusted = clustered_ratio(np.append(rise, [typical, -typical]), np.append(size, [typical, typical]))
    z2 = float(stats.norm.ppf(1 - alpha)) ** 2
    return Clustered(observed.mean, adjusted.se, observed.n, alpha=alpha, floor=z2 / (observed.n + z2))


def jackknife(whole: float, without: Floats) -> Clustered:
    """A statistic of the whole set with its delete-one-dialogue error: se^2 = (D - 1) / D * sum((t_d - mean t)^2).

    without: [dialogues], the statistic with that dialogue left out.
    """
    n = _dialogues(without)
    spread = float(((without - without.mean()) ** 2).sum())
    return Clustered(whole, math.sqrt((n - 1) / n * spread), n)
