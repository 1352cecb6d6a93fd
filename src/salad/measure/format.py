"""How figures with a 95 % interval are written in tables, whoever prints them: `0.213 [0.101, 0.325]`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["bounds", "with_interval"]


def with_interval(figure: Any, spec: str = ".3f", *, scale: float = 1.0, unit: str = "", missing: str = "") -> str:
    """`value [low, high]` of a mapping or an object with these; the value alone where it has no interval.

    spec: as in `format`; scale: 100 for per cent; unit: what stands behind the value; missing: what stands for None.
    """
    value = _part(figure, "value")
    return missing if value is None else f"{scale * value:{spec}}{unit} {bounds(figure, spec, scale=scale)}".rstrip()


def bounds(figure: Any, spec: str = ".3f", *, scale: float = 1.0) -> str:
    """`[low, high]` alone; "" where there is no interval."""
    low, high = _part(figure, "low"), _part(figure, "high")
    return "" if low is None or high is None else f"[{scale * low:{spec}}, {scale * high:{spec}}]"


def _part(figure: Any, name: str) -> float | None:
    return figure.get(name) if isinstance(figure, Mapping) else getattr(figure, name, None)
