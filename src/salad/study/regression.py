"""What accuracy owes to M and to F: slopes, leave-one-out R^2, and the partial R^2 of each given the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
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

    @property
    def value(self) -> float:
        return self.slope

    @property
    def freedom(self) -> int:
        """Of the t interval."""
        return self.n - 2


def regress(x: Sequence[float], y: Sequence[float]) -> Regression:
    """Ordinary least squares of y on x (for the paper's figure x = log M or F, y = accuracy).

    Leave-one-out R^2 is 1 - PRESS / total, where the total also leaves each point out of its mean; it is negative
    where the line predicts worse than the mean. Raises SaladError for fewer than four points or a constant x.
    """
    a, b = _checked(x, y)
    design = np.stack([np.ones(len(a)), a], axis=1)
    (intercept, slope), residual = _fit(design, b)
    leverage = np.einsum("ij,ij->i", design @ np.linalg.pinv(design.T @ design), design)
    press = ((residual / (1 - leverage)) ** 2).sum()
    total = ((b - b.mean()) ** 2).sum()
    left_out = (((b - b.mean()) * len(b) / (len(b) - 1)) ** 2).sum()
    # Not a bootstrap over points: of eight of them its percentiles miss the truth twice as often as they say.
    error = math.sqrt((residual**2).sum() / (len(a) - 2) / ((a - a.mean()) ** 2).sum())
    reach = float(stats.t.ppf(0.975, len(a) - 2)) * error
    return Regression(
        slope=float(slope),
        low=float(slope) - reach,
        high=float(slope) + reach,
        intercept=float(intercept),
        r2=float(1 - (residual**2).sum() / total) if total > 0 else 0.0,
        r2_leave_one_out=float(1 - press / left_out) if left_out > 0 else 0.0,
        n=len(a),
    )


def partial_r2(x: Sequence[float], given: Sequence[float], y: Sequence[float]) -> float:
    """Share of what `given` leaves unexplained of y that x explains: squared correlation of the two residuals."""
    a, b = _checked(x, y)
    c, _ = _checked(given, y)
    design = np.stack([np.ones(len(c)), c], axis=1)
    rest_x, rest_y = _fit(design, a)[1], _fit(design, b)[1]
    scale = (rest_x**2).sum() * (rest_y**2).sum()
    tiny = 1e-20 * (a**2).sum() * max((b**2).sum(), 1e-300)
    return float((rest_x @ rest_y) ** 2 / scale) if scale > tiny else 0.0


def _fit(design: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    found = np.linalg.lstsq(design, y, rcond=None)[0]
    return found, y - design @ found


def _checked(x: Sequence[float], y: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if len(a) != len(b) or len(a) < 4:
        raise SaladError(f"regress: {len(a)} values of x and {len(b)} of y; expected as many of both, at least 4")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise SaladError("regress: values must be finite; leave out runs that failed (and M = 0 under a logarithm)")
    if np.ptp(a) == 0:
        raise SaladError(f"regress: x is {a[0]:.4g} in every run; it must vary for a slope")
    return a, b
