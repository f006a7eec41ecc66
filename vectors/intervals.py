"""The interval of a share measured on n items."""

from __future__ import annotations

import math

Z95 = 1.959964


def wilson(share: float, n: int) -> tuple[float, float]:
    """95 % interval of a share measured on ``n`` items (Wilson, 1927)."""
    centre = (share + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)
