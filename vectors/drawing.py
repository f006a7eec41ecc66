"""Pictures drawn from numbers: the sigil of a vector.

Plain SVG without style attributes, so that the strictest content policy lets it through.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def sigil(layers: Sequence[Mapping[str, Any]], digest: str) -> str:
    """One ray a layer, its length the layer's share of ‖τ‖, its hue from the version's hash.

    Vectors that act in different places look different; a duplicate looks like its twin.
    """
    hue = int(digest[:4] or "0", 16) % 360
    rays = list(layers)[:64] or [{"share": 0.0}]
    strongest = max(float(ray["share"]) for ray in rays) or 1.0
    spokes = max(len(rays), 3)
    width = max(2.2, min(6.0, 150 / spokes))
    parts = []
    for index, ray in enumerate(rays):
        angle = 2 * math.pi * index / spokes - math.pi / 2
        length = math.sqrt(float(ray["share"]) / strongest)
        inner, outer = 24.0, 30.0 + 46.0 * length
        # oklch keeps every hue equally strong on light and on dark paper.
        colour = f"oklch(0.6 0.13 {hue})" if length > 0.02 else f"oklch(0.68 0.03 {hue})"
        x, y = math.cos(angle), math.sin(angle)
        parts.append(
            f'<line x1="{80 + inner * x:.1f}" y1="{80 + inner * y:.1f}"'
            f' x2="{80 + outer * x:.1f}" y2="{80 + outer * y:.1f}" stroke="{colour}"/>'
        )
    return (
        f'<svg viewBox="0 0 160 160" aria-hidden="true" focusable="false" fill="none"'
        f' stroke-width="{width:.1f}" stroke-linecap="round">{"".join(parts)}</svg>'
    )
