"""Text tables of numbers, shared by the benchmarks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def median(values: Sequence[float]) -> float:
    """The median; NaN for no values."""
    return percentile(values, 0.5)


def percentile(values: Sequence[float], fraction: float) -> float:
    """The value that this fraction (0..1) of the values does not exceed; NaN without values."""
    return float(np.quantile(values, fraction)) if len(values) else float("nan")


def summary(seconds: Sequence[float]) -> dict[str, float | None]:
    """Median, 99th percentile and maximum in milliseconds, for JSON; None without values."""
    facts = {"median": median(seconds), "p99": percentile(seconds, 0.99)}
    facts["max"] = max(seconds, default=float("nan"))
    return {name: number_or_none(1e3 * value) for name, value in facts.items()}


def number_or_none(value: float) -> float | None:
    """For JSON, which has no NaN."""
    return None if np.isnan(value) else value


def aligned(rows: Sequence[Sequence[str]], texts: int) -> list[str]:
    """Lines of a table: the first `texts` columns flush left, the numbers after them right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i < texts else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
