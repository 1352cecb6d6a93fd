"""How figures with a 95 % interval are written in tables, whoever prints them: `0.213 [0.101, 0.325]`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from salad.measure.statistics import detectable

Z95 = 1.96  # standard errors to either side of a 95 % interval


def with_interval(figure: Any, spec: str = ".3f", *, scale: float = 1.0, unit: str = "", missing: str = "") -> str:
    """`value [low, high]` of a mapping or an object with these; the value alone where it has no interval.

    spec: as in `format`; scale: 100 for per cent; unit: what stands behind the value; missing: what stands for None.
    """
    value = _part(figure, "value")
    return missing if value is None else f"{scale * value:{spec}}{unit} {bounds(figure, spec, scale=scale)}".rstrip()


def with_detectable(figure: Any, spec: str = ".3f", *, scale: float = 1.0, unit: str = "", missing: str = "") -> str:
    """Write a difference as `with_interval` does, and `cannot_tell` behind it."""
    return with_interval(figure, spec, scale=scale, unit=unit, missing=missing) + cannot_tell(figure, spec, scale=scale)


def cannot_tell(figure: Any, spec: str = ".3f", *, scale: float = 1.0) -> str:
    """`, cannot tell (0.1 could be, power 0.8)` behind a difference whose interval holds 0; "" where it can be told.

    What could be told is the smallest true difference that is found with probability 0.8: `minimum_detectable` of the
    figure, or `detectable`.
    """
    low, high = _ends(figure)
    if _part(figure, "value") is None or low is None or high is None or low == high or not low <= 0 <= high:
        return ""
    least = _part(figure, "minimum_detectable") or detectable((high - low) / 2)
    return f", cannot tell ({scale * least:{spec.lstrip('+')}} could be, power 0.8)"


def bounds(figure: Any, spec: str = ".3f", *, scale: float = 1.0) -> str:
    """`[low, high]` alone, an infinite end as `any`; "" where there is no interval."""
    ends = _ends(figure)
    if None in ends:
        return ""
    return "[{}, {}]".format(
        *("any" if math.isinf(end) else f"{scale * end:{spec}}" for end in ends if end is not None)
    )


def with_error(value: float, se: float | None, spec: str = ".3f") -> str:
    """`value ± reach` of a 95 % interval of this standard error; the value alone without one."""
    return f"{value:{spec}}" + ("" if se is None else f" ± {Z95 * se:{spec}}")


def _ends(figure: Any) -> tuple[float | None, float | None]:
    return _part(figure, "low"), _part(figure, "high")


def _part(figure: Any, name: str) -> float | None:
    return figure.get(name) if isinstance(figure, Mapping) else getattr(figure, name, None)
