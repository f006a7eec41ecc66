"""Whether a check shows that its vectors go together.

The rule: at least two vectors, all of them added; each comes with an ability that the equipped
model learned, no ability of its own kept less than half of the gain that the vector has alone, and
nothing that the target could do, and no control, was forgotten or reversed.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from .table import ASKED, FORGOTTEN, LEARNED, REVERSED, TERM

ENOUGH = 0.5  # of a vector's own gain


def go_together(
    rows: Sequence[dict[str, Any]],
    vectors: Sequence[tuple[str, Decimal]],
    problems: Sequence[Any] = (),
) -> bool:
    """Whether ``rows`` (of ``table.rows_of``) say so of ``vectors``: labels with coefficients."""
    labels = {label for label, _coefficient in vectors}
    if problems or len(labels) < 2 or any(coefficient <= 0 for _l, coefficient in vectors):
        return False
    own = [row for row in rows if row["role"] == TERM]
    if {row["of"] for row in own if row.get("verdict") == LEARNED} != labels:
        return False
    return all(_holds(row) for row in rows if row["role"] != ASKED)


def _holds(row: dict[str, Any]) -> bool:
    share = row.get("kept_share")
    if row.get("verdict") in (None, FORGOTTEN, REVERSED):
        return False
    return row["role"] != TERM or share is None or share >= ENOUGH
