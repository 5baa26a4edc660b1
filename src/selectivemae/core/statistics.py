"""How sure a figure is."""

import math
from collections.abc import Sequence


def wilson(right: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """Confidence interval of a proportion of ``right`` of ``total`` trials, as shares in [0, 1]; 95 % by default.

    Wilson's score interval (JASA 22, 1927): it never leaves [0, 1] and holds for few trials and for rare errors.
    Without trials nothing is known: (0, 1).
    """
    if total == 0:
        return 0.0, 1.0
    share, spread = right / total, z * z / total
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / total + spread / (4 * total)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


def mean_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (over n - 1); the deviation of a single value is unknown: None."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, None
    return mean, math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
