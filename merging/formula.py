"""The parts of a formula, as ``partials/formula.html`` shows them: a target, then terms."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from merging.engine.recipe import coefficient_text
from vectors.models import Foundation, Vector, Version


def target_part(owner: Foundation | Vector) -> dict[str, Any]:
    """What the vectors are put on."""
    return {"kind": "target", "label": owner.label, "url": owner.get_absolute_url()}


def term_part(
    coefficient: Decimal, vector: Vector | None, *, name: str = "", version: Version | None = None
) -> dict[str, Any]:
    """A vector with its sign and coefficient; ``name`` where there is no vector to name it."""
    return {
        "kind": "term",
        "sign": "−" if coefficient < 0 else "+",
        "coefficient": coefficient_text(abs(coefficient)),
        "label": vector.label if vector else name,
        "url": vector.get_absolute_url() if vector else "",
        "vector": vector,
        "version": version,
    }
