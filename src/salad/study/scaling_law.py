"""The scaling law M(D) = E + B * D^-beta (SALAD, finding 2): fit, intervals, and whether it beats a plain power law."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy import stats

from salad.files import read_jsonl
from salad.measure.format import with_interval
from salad.measure.statistics import DRAWS_REFITTED, middle_95
from salad.types import Estimate, SaladError

BETAS = np.geomspace(0.02, 4.0, 160)
HUBER = 1.345  # in units of the noise: 95 % efficient under normal noise (Huber 1981)
ROUNDS = 3
PARAMETERS = 3
FAR = 1e6  # hours beyond which a law says nothing any more: never


@dataclass(frozen=True)
class Law:
    """M(D) = E + B * D^-beta, D in the unit of the data, with 95 % bootstrap intervals, each over the points.

    aicc and aicc_power: corrected Akaike criterion of this law and of B * D^-beta alone (lower is better); where the
    power law's is not higher, E cannot be told from 0. near_floor: D at which M = 1.05 E (None where E is 0);
    extrapolated: that lies beyond the largest D measured.
    """

    e: Estimate
    b: Estimate
    beta: Estimate
    noise: float
    points: int
    aicc: float
    aicc_power: float
    near_floor: Estimate | None
    extrapolated: bool

    @property
    def power_law_suffices(self) -> bool:
        return self.aicc_power <= self.aicc

    def __call__(self, d: np.ndarray | float) -> np.ndarray:
        """M at `d`."""
        return self.e.value + self.b.value * np.asarray(d, dtype=float) ** -self.beta.value


def fit_law(
    data: Sequence[float], misalignment: Sequence[float], *, resamples: int = DRAWS_REFITTED, seed: int = 0
) -> Law:
    """Fit by relative residuals with Huber weights; residual bootstrap, widened for few points.

    data: D > 0 (hours, positions) [n]; misalignment: M > 0 in nats [n]; replicates of one D are points of their own.
    Raises SaladError where fewer than four different D are given, which three parameters do not leave any freedom.
    """
    d, m = _checked(data, misalignment)
    unit = float(np.exp(np.log(d).mean()))  # keeps the exponent's powers near 1
    x = d / unit
    theta, found, noise = _bootstrap(x, m, resamples, seed)
    fitted, freedom = _curve(x, theta[None])[0], len(m) - PARAMETERS
    # Percentiles of a bootstrap are too close together where the noise itself is known from few points: Student's t,
    # and a little over it, since resampled residuals are less spread than the errors that they stand for.
    widen = stats.t.ppf(0.98, max(freedom, 1)) / stats.norm.ppf(0.975)

    def interval(values: np.ndarray, value: float, floor: float = 0.0, log: bool = False) -> Estimate:
        change = np.log if log else np.asarray
        low, high = middle_95(change(values))
        at = change(value)
        low, high = at + (min(low, at) - at) * widen, at + (max(high, at) - at) * widen
        ends = max(floor, float(np.exp(low) if log else low)), float(np.exp(high) if log else high)
        return Estimate(value, *ends, len(m))

    e, b, beta = theta
    scaled = found[:, 1] * unit ** found[:, 2]
    near = None
    if e > 0:
        with np.errstate(divide="ignore", over="ignore"):
            reach = (found[:, 1] / (0.05 * np.maximum(found[:, 0], 1e-9))) ** (1 / found[:, 2]) * unit
        value = float((b / (0.05 * e)) ** (1 / beta) * unit)
        near = Estimate(value, *middle_95(np.minimum(reach, 1e30)), len(m))
    power = _power_law(x, m)
    floor = interval(found[:, 0], float(e))
    most = max(floor.value, float(m.min()) * (1 + 2 * noise))  # a floor lies under what was measured, but for its noise
    return Law(
        e=replace(floor, high=min(floor.high, most)),
        b=interval(scaled, float(b * unit**beta), log=True),
        beta=interval(found[:, 2], float(beta), log=True),
        noise=noise,
        points=len(m),
        aicc=_aicc(np.log(m / fitted), PARAMETERS),
        aicc_power=_aicc(np.log(m / power), PARAMETERS - 1),
        near_floor=near,
        extrapolated=near is not None and near.value > d.max(),
    )


def hours_at(
    data: Sequence[float],
    misalignment: Sequence[float],
    target: float,
    *,
    resamples: int = DRAWS_REFITTED,
    seed: int = 0,
) -> Estimate:
    """D at which the law of these points comes to M = `target`, with its 95 % bootstrap interval, infinite ends where
    resampled laws never do. Raises SaladError as `fit_law`."""
    d, m = _checked(data, misalignment)
    unit = float(np.exp(np.log(d).mean()))
    theta, found, _ = _bootstrap(d / unit, m, resamples, seed)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        above = target - np.append(found[:, 0], theta[0])
        draws = (np.append(found[:, 1], theta[1]) / np.maximum(above, 1e-12)) ** (1 / np.append(found[:, 2], theta[2]))
    draws = np.where((above <= 0) | (draws * unit > FAR), np.inf, draws * unit)
    low, high = np.percentile(draws[:-1], [2.5, 97.5], method="nearest")
    return Estimate(float(draws[-1]), float(min(low, draws[-1])), float(max(high, draws[-1])), len(m))


def _checked(data: Sequence[float], misalignment: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    d, m = np.asarray(data, dtype=float), np.asarray(misalignment, dtype=float)
    if len(d) != len(m):
        raise SaladError(f"scaling: {len(d)} values of D and {len(m)} of M; give one M for each D")
    if not (np.isfinite(d).all() and np.isfinite(m).all() and (d > 0).all() and (m > 0).all()):
        raise SaladError("scaling: D and M must be finite and above 0; leave out D = 0 and runs that failed")
    if len(set(d.tolist())) < PARAMETERS + 1:
        raise SaladError(f"scaling: {len(set(d.tolist()))} different D, expected at least 4 for three parameters")
    return d, m


def _bootstrap(x: np.ndarray, m: np.ndarray, resamples: int, seed: int) -> tuple[np.ndarray, np.ndarray, float]:
    """(E, B, beta), the same of each resample of residuals [R, 3], and the noise of one point, relative to M."""
    (theta,), weights = _robust(x, m[None])
    fitted = _curve(x, theta[None])[0]
    relative = m / fitted - 1
    freedom = len(m) - PARAMETERS
    noise = math.sqrt(max((weights[0] * relative**2).sum() / max(weights[0].sum() * freedom / len(m), 1e-12), 1e-24))

    rng = np.random.default_rng(seed)
    centred = (relative - relative.mean()) * math.sqrt(len(m) / max(freedom, 1))
    drawn = fitted * np.maximum(1 + rng.choice(centred, (resamples, len(m))), 0.01)
    found, _ = _robust(x, drawn)
    return theta, found, noise


def _robust(x: np.ndarray, m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(E, B, beta) [R, 3] and weights [R, n] of each row of m [R, n]: iteratively reweighted least squares.

    All rows at once: scipy's `least_squares` with Huber's loss takes six times as long for each resample.
    """
    weights = np.ones_like(m)
    for _ in range(ROUNDS):
        theta = _least_squares(x, m, weights)
        residual = np.abs(m / _curve(x, theta) - 1)
        scale = np.maximum(1.4826 * np.median(residual, axis=1, keepdims=True), 1e-9)
        weights = np.minimum(1.0, HUBER * scale / np.maximum(residual, 1e-12))
    return theta, weights


def _least_squares(x: np.ndarray, m: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Fit E and B >= 0 in closed form for each beta of a grid (variable projection); the grid is refined twice."""
    betas = np.broadcast_to(BETAS, (len(m), len(BETAS)))
    for _ in range(3):
        e, b, loss = _project(x, m, weights, betas)
        best = loss.argmin(axis=1)
        rows = np.arange(len(m))
        theta = np.stack([e[rows, best], b[rows, best], betas[rows, best]], axis=1)
        low, high = betas[rows, np.maximum(best - 1, 0)], betas[rows, np.minimum(best + 1, betas.shape[1] - 1)]
        betas = np.geomspace(low, high, 24, axis=1)
    return theta


def _project(
    x: np.ndarray, m: np.ndarray, weights: np.ndarray, betas: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """E, B and loss [R, G] of the best law for every beta [R, G]; residuals are relative to M."""
    w = (weights / m**2)[:, None, :]  # [R, 1, n]
    power = x[None, None, :] ** -betas[:, :, None]  # [R, G, n]
    target = m[:, None, :]
    s0, s1, s2 = w.sum(-1), (w * power).sum(-1), (w * power**2).sum(-1)
    t0, t1 = (w * target).sum(-1), (w * power * target).sum(-1)
    determinant = s0 * s2 - s1**2
    with np.errstate(divide="ignore", invalid="ignore"):
        e = np.where(determinant > 1e-12 * s0 * s2, (t0 * s2 - t1 * s1) / determinant, 0.0)
    e = np.maximum(e, 0.0)
    b = (t1 - e * s1) / s2
    flat = b < 0  # M does not fall: the constant is all there is
    e, b = np.where(flat, t0 / s0, e), np.where(flat, 1e-12, b)
    loss = (w * (e[..., None] + b[..., None] * power - target) ** 2).sum(-1)
    return e, b, loss


def _curve(x: np.ndarray, theta: np.ndarray) -> np.ndarray:
    return np.asarray(theta[:, :1] + theta[:, 1:2] * x[None, :] ** -theta[:, 2:])


def _power_law(x: np.ndarray, m: np.ndarray) -> np.ndarray:
    slope, level = np.polyfit(np.log(x), np.log(m), 1)
    return np.asarray(np.exp(level + slope * np.log(x)))


def _aicc(residual: np.ndarray, parameters: int) -> float:
    n, k = len(residual), parameters + 1  # the noise is a parameter too
    value = n * math.log(max(float((residual**2).mean()), 1e-24)) + 2 * k
    return value + 2 * k * (k + 1) / (n - k - 1) if n > k + 1 else math.inf


def law_table(results: Path, data: str, value: str, by: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Header and one line for each group of rows of a .jsonl or .csv file; rows of runs that were dropped are left out.

    Raises SaladError that names a missing file or column.
    """
    if not results.exists():
        raise SaladError(f"RESULTS: {results} does not exist; give a .jsonl or .csv with one row a run")
    if results.suffix == ".csv":
        with open(results, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    else:
        rows = read_jsonl(results)
    rows = [row for row in rows if row.get("status", "done") == "done"]
    groups: dict[tuple[str, ...], list[tuple[float, float]]] = {}
    for number, row in enumerate(rows, 1):
        missing = [name for name in (data, value, *by) if name not in row]
        if missing:
            raise SaladError(f"{results} row {number}: no {', '.join(missing)}; its columns are {', '.join(row)}")
        groups.setdefault(tuple(str(row[name]) for name in by), []).append((float(row[data]), float(row[value])))
    header = [*by, "runs", "E", "B", "beta", f"{data} at 1.05 E", "AICc (law, power law)"]
    lines = []
    for key, points in sorted(groups.items()):
        try:
            law = fit_law(*zip(*points, strict=True))
        except SaladError as error:
            lines.append([*key, str(len(points)), f"not fitted: {error}", "", "", "", ""])
            continue
        far = law.near_floor
        reach = "E may be 0" if far is None or law.power_law_suffices else with_interval(far, ".3g")
        if far is not None and law.extrapolated and not law.power_law_suffices:
            reach += ", extrapolated"
        parts = [with_interval(x, ".3g") for x in (law.e, law.b, law.beta)]
        lines.append([*key, str(len(points)), *parts, reach, f"{law.aicc:.1f}, {law.aicc_power:.1f}"])
    return header, lines
