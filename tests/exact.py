"""How two deltas lie to each other, from every entry: what sketches estimate, without them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Exact:
    """The figures of ``vectors.tensorfile.likeness.Likeness``, by definition."""

    cosine: float
    conflict: float | None
    large_conflict: float | None
    overlap: float
    shared: float


def exactly(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> Exact:
    """Compare two deltas (flat arrays by tensor name); a tensor that is missing is all zeros."""
    names = sorted({*a, *b})
    sizes = {name: (a[name] if name in a else b[name]).size for name in names}
    x, y = (
        np.concatenate([each.get(name, np.zeros(sizes[name])).astype(np.float64) for name in names])
        for each in (a, b)
    )
    both = (x != 0) & (y != 0)
    opposite = np.sign(x) != np.sign(y)
    large_x, large_y = _large(x), _large(y)
    common = large_x & large_y
    return Exact(
        cosine=float(x @ y / np.sqrt((x @ x) * (y @ y))),
        conflict=float(opposite[both].mean()) if both.any() else None,
        large_conflict=float(opposite[common].mean()) if common.any() else None,
        overlap=float(common.sum() / min(large_x.sum(), large_y.sum())),
        shared=float(both.sum() / min((x != 0).sum(), (y != 0).sum())),
    )


def _large(delta: np.ndarray) -> np.ndarray:
    """The fifth of the changed entries that is largest, with all that are as large as its last."""
    sizes = np.abs(delta[delta != 0])
    many = max(1, int(np.ceil(sizes.size * 0.2)))
    return np.abs(delta) >= np.partition(sizes, -many)[-many]
