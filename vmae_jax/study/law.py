"""Means and differences with intervals, and the law of saturation through a study's accuracies.

    accuracy(n) = limit - gap * (n / smallest n) ^ -rate

Power laws with a limit are what learning curves of many models and data sets follow (Hestness et
al., "Deep learning scaling is predictable, empirically", 2017), and of the forms with three
parameters they extrapolate best (Viering and Loog, "The shape of learning curves: a review", 2023).
For rate -> 0 it is a straight line over the logarithm of n, for rate -> infinity a step.

Few points determine it badly: the rate can often be anything. Intervals from a linearisation or
from resampling three seeds would not say so. Those here are of profile likelihood (Bates and Watts,
"Nonlinear regression analysis", 1988, chapter 6): they hold whatever every law says that fits the
accuracies no significantly worse than the best one. For a given rate the law is linear, so a grid
over the rate is all that has to be searched, and nothing is random.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import special

RATES = np.geomspace(0.02, 5, 800)  # at the ends: nearly a logarithm, nearly a step
PARAMETERS = 3
ROUNDING = 1e-12  # of the sum of squares: laws that fit as well but for this are as good


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number, and the interval that holds the true one with the study's confidence.

    Both ends are None where too few runs say nothing of their spread.
    """

    value: float
    low: float | None = None
    high: float | None = None


def mean(values: Sequence[float], confidence: float = 0.95) -> Estimate:
    """Mean accuracy in percent, with Student's t interval over the runs."""
    sample = np.asarray(values, float)
    center = float(sample.mean())
    if len(sample) < 2:
        return Estimate(center)
    error = sample.std(ddof=1) / np.sqrt(len(sample))
    half = _quantile(confidence, len(sample) - 1) * float(error)
    return Estimate(center, max(0.0, center - half), min(100.0, center + half))


def difference(
    new: Sequence[float], old: Sequence[float], confidence: float = 0.95, scale: float = 1.0
) -> Estimate:
    """Mean of `new` minus mean of `old`, times `scale`, with Welch's t interval."""
    a, b = np.asarray(new, float), np.asarray(old, float)
    value = scale * float(a.mean() - b.mean())
    if min(len(a), len(b)) < 2:
        return Estimate(value)
    parts = np.array([a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)])
    if not parts.any():
        return Estimate(value, value, value)
    degrees = parts.sum() ** 2 / (parts**2 / [len(a) - 1, len(b) - 1]).sum()
    half = scale * _quantile(confidence, degrees) * float(np.sqrt(parts.sum()))
    return Estimate(value, value - half, value + half)


def _quantile(confidence: float, degrees: float) -> float:
    """Student's t that a share `confidence` stays within, on both sides."""
    return float(special.stdtrit(degrees, (1 + confidence) / 2))


@dataclasses.dataclass(frozen=True)
class Law:
    """The fitted law; accuracies and gaps in percent.

    `rates`, `solutions` [R, 2] (limit, gap) and `slack` [R] are the laws within the confidence and
    how much worse, in squared percent, each may still become; empty where too few runs say nothing
    of their spread.
    """

    limit: float
    gap: float  # between the limit and the accuracy at `smallest`
    rate: float
    smallest: float  # clips
    largest: float
    rates: np.ndarray
    solutions: np.ndarray
    slack: np.ndarray
    covariances: np.ndarray  # [R, 2, 2] per unit of squared percent

    def at(self, clips: float) -> Estimate:
        """Accuracy after pre-training on so many clips."""
        return self._estimate(lambda rate: (1.0, -self._power(clips, rate)), 0.0, 100.0)

    def gain(self, clips: float) -> Estimate:
        """What twice as many clips would add."""

        def row(rate: np.ndarray | float) -> tuple:
            return 0.0, self._power(clips, rate) - self._power(2 * clips, rate)

        return self._estimate(row, -100.0, 100.0)

    def ceiling(self) -> Estimate:
        """The limit with its interval."""
        return self._estimate(lambda rate: (1.0, 0.0), 0.0, 100.0)

    def speed(self) -> Estimate:
        """The rate with its interval, which ends where the grid does if nothing else ends it."""
        if not len(self.rates):
            return Estimate(self.rate)
        return Estimate(self.rate, float(self.rates.min()), float(self.rates.max()))

    def _power(self, clips: float, rate: np.ndarray | float) -> np.ndarray | float:
        return (clips / self.smallest) ** -rate

    def _estimate(self, row, least: float, most: float) -> Estimate:
        """A sum of limit and gap with weights row(rate); known to lie between least and most."""
        value = float(np.dot(row(self.rate), (self.limit, self.gap)))
        if not len(self.rates):
            return Estimate(value)
        rows = np.stack(np.broadcast_arrays(*row(self.rates), self.rates)[:2], -1)  # [R, 2]
        centers = (rows * self.solutions).sum(-1)
        halves = np.sqrt(self.slack * np.einsum("ri,rij,rj->r", rows, self.covariances, rows))
        low = min(value, float((centers - halves).min()))
        high = max(value, float((centers + halves).max()))
        return Estimate(value, max(least, low), min(most, high))


def fit(
    clips: Sequence[float], accuracies: Sequence[float], confidence: float = 0.95
) -> Law | None:
    """The law through single runs, by least squares with limit <= 100 and gap >= 0.

    Returns:
      None below three different numbers of clips, which three parameters need.
    """
    n, y = np.asarray(clips, float), np.asarray(accuracies, float)
    if len(np.unique(n)) < PARAMETERS:
        return None
    powers = (n / n.min()) ** -RATES[:, None]  # [R, N]
    design = np.stack([np.ones_like(powers), -powers], -1)  # [R, N, 2]
    covariances = np.linalg.inv(design.swapaxes(1, 2) @ design)
    free = (covariances @ design.swapaxes(1, 2) @ y[:, None])[..., 0]  # [R, 2]
    allowed = _allowed(free, powers, y)
    errors, allowed_errors = (
        ((y - (design @ s[..., None])[..., 0]) ** 2).sum(-1) for s in (free, allowed)
    )
    best = int(allowed_errors.argmin())
    degrees = len(y) - PARAMETERS
    threshold = -np.inf  # no law but the best one
    if degrees > 0:
        threshold = allowed_errors[best] * (1 + _quantile(confidence, degrees) ** 2 / degrees)
        threshold += ROUNDING * float((y**2).sum())
    kept = errors <= threshold
    limit, gap = map(float, allowed[best])
    return Law(
        limit, gap, float(RATES[best]), float(n.min()), float(n.max()), RATES[kept], free[kept],
        threshold - errors[kept], covariances[kept],
    )  # fmt: skip


def _allowed(solutions: np.ndarray, powers: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Limit and gap [R, 2] of the best law of each rate with limit <= 100 and gap >= 0."""
    limit, gap = solutions.T
    below = (powers * (100 - y)).sum(-1) / (powers**2).sum(-1)  # the gap of limit 100
    capped = np.where(limit > 100, [np.full_like(limit, 100), below], [limit, gap])
    flat = capped[1] < 0
    return np.where(flat, [[y.mean()], [0.0]], capped).T
