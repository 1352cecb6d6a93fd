"""What accuracy owes to M and to F: slopes, leave-one-out R^2, and the partial R^2 of each given the other."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from salad.types import SaladError


@dataclass(frozen=True)
class Regression:
    """y = intercept + slope * x, with the slope's 95 % interval (Student's t) and leave-one-out R^2."""

    slope: float
    low: float
    high: float
    intercept: float
    r2: float
    r2_leave_one_out: float
    n: int
    groups: int = 1

    @property
    def value(self) -> float:
        return self.slope

    @property
    def freedom(self) -> int:
        """Degrees of freedom of the t interval."""
        return self.n - 1 - self.groups


def regress(x: Sequence[float], y: Sequence[float]) -> Regression:
    """Ordinary least squares of y on x (for the paper's figure x = log M or F, y = accuracy).

    Leave-one-out R^2 is 1 - PRESS / total, where the total also leaves each point out of its mean; it is negative
    where the line predicts worse than the mean. Raises SaladError for fewer than four points or a constant x.
    """
    a, b = _checked(x, y)
    n, line = len(a), stats.linregress(a, b)
    leverage = 1 / n + (a - a.mean()) ** 2 / ((a - a.mean()) ** 2).sum()
    press = ((_residual(a, b) / (1 - leverage)) ** 2).sum()
    left_out = (((b - b.mean()) * n / (n - 1)) ** 2).sum()
    # Not a bootstrap over points: of eight of them its percentiles miss the truth twice as often as they say.
    reach = float(stats.t.ppf(0.975, n - 2) * line.stderr)
    return Regression(
        slope=float(line.slope),
        low=float(line.slope) - reach,
        high=float(line.slope) + reach,
        intercept=float(line.intercept),
        r2=float(line.rvalue**2),
        r2_leave_one_out=float(1 - press / left_out) if left_out > 0 else 0.0,
        n=n,
    )


def regress_within(x: Sequence[float], y: Sequence[float], groups: Sequence[Hashable]) -> Regression:
    """`regress` with an intercept for each group: what differs from group to group alone is left out.

    Raises SaladError for fewer than four points, for groups that use up the points, or where x varies in none.
    """
    a, b = _checked(x, y)
    of = {group: [i for i, own in enumerate(groups) if own == group] for group in dict.fromkeys(groups)}
    freedom = len(a) - 1 - len(of)
    if freedom < 1:
        raise SaladError(f"regress: {len(a)} points of {len(of)} kinds leave nothing to tell an error by")
    for own in of.values():
        a[own], b[own] = a[own] - a[own].mean(), b[own] - b[own].mean()
    spread = float((a**2).sum())
    if spread < 1e-20:
        raise SaladError("regress: x is the same in every run of a kind; it must vary for a slope")
    slope = float(a @ b) / spread
    rest, total = float(((b - slope * a) ** 2).sum()), float((b**2).sum())
    reach = float(stats.t.ppf(0.975, freedom)) * (rest / freedom / spread) ** 0.5
    r2 = 1 - rest / total if total > 0 else 0.0
    return Regression(slope, slope - reach, slope + reach, 0.0, r2, math.nan, len(a), len(of))


def partial_r2(x: Sequence[float], given: Sequence[float], y: Sequence[float]) -> float:
    """Share of what `given` leaves unexplained of y that x explains: squared correlation of the two residuals."""
    a, b = _checked(x, y)
    c, _ = _checked(given, y)
    rest_x, rest_y = _residual(c, a), _residual(c, b)
    scale = (rest_x**2).sum() * (rest_y**2).sum()
    tiny = 1e-20 * (a**2).sum() * max((b**2).sum(), 1e-300)
    return float((rest_x @ rest_y) ** 2 / scale) if scale > tiny else 0.0


def _residual(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """What the least-squares line on x leaves of y."""
    line = stats.linregress(x, y)
    return np.asarray(y - line.intercept - line.slope * x)


def _checked(x: Sequence[float], y: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.array(x, dtype=float), np.array(y, dtype=float)
    if len(a) != len(b) or len(a) < 4:
        raise SaladError(f"regress: {len(a)} values of x and {len(b)} of y; expected as many of both, at least 4")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise SaladError("regress: values must be finite; leave out runs that failed (and M = 0 under a logarithm)")
    if np.ptp(a) == 0:
        raise SaladError(f"regress: x is {a[0]:.4g} in every run; it must vary for a slope")
    return a, b
