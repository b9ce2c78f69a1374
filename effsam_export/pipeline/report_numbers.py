"""Measured values as the text of a report."""

from __future__ import annotations

import math
from decimal import ROUND_FLOOR, Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence


def worst(pick: Callable[[Iterable[float]], float], values: Sequence[float]) -> float:
    """Return the minimum or maximum; NaN if any value is NaN, which `min` and `max` would miss."""
    return math.nan if any(math.isnan(value) for value in values) else pick(values)


def iou(value: float) -> str:
    """Return an IoU, rounded down, so that only equal masks have one of 1.000000."""
    if not math.isfinite(value):
        return number(value)
    return str(Decimal(str(float(value))).quantize(Decimal("1e-6"), ROUND_FLOOR))


def cosine(value: float) -> str:
    """Return a cosine similarity."""
    return f"{value:.7f}" if math.isfinite(value) else number(value)


def number(value: float, form: str = ".3g") -> str:
    """Return any number in a format, which may be infinite or NaN."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return format(value, form)
