"""The sparsifying methods in plain numpy, on whole tensors, and models to try them on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from merging.engine.randomness import draws, key_of, limit_of
from tests.engine.models import State

Array = np.ndarray

NORMALIZED = {"ties", "della"}
RESCALED = {"dare_linear", "dare_ties", "della", "della_linear"}
ELECTING = {"ties", "dare_ties", "breadcrumbs_ties", "della"}
METHODS = ["ties", "dare_linear", "dare_ties", "breadcrumbs", "breadcrumbs_ties", "della",
           "della_linear"]  # fmt: skip


def state(dtype: torch.dtype, seed: int = 0) -> State:
    """Tensors of 0 to 4 axes; one is longer than two blocks, one has a single entry."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    return {
        "layers.0.weight": normal(300, 500),
        "layers.1.weight": normal(37, 53),
        "layers.1.kernel": normal(6, 5, 3, 3),
        "layers.1.bias": normal(613),
        "layers.1.one": normal(1),
        "layers.1.column": normal(41, 1),
        "scale": normal(),
        "positions": torch.arange(9),
    }


def kept_by_size(delta: Array, density: float, gamma: float | None, place: Array) -> Array:
    """TIES without ``gamma``, Breadcrumbs with it; draws choose among equals at a threshold."""
    if density >= 1:
        return np.ones(delta.shape, bool)
    size, count = np.abs(delta), delta.size
    kept = int(density * count)
    if gamma is None:
        kept = 0 if density <= 0 else max(1, kept)
    if kept == 0:
        return np.zeros(delta.shape, bool)
    dropped = 0 if gamma is None else min(int(gamma * count), count - kept)
    ordered = np.sort(size, axis=None)[::-1]
    least, most = ordered[dropped + kept - 1], ordered[dropped]
    chance = place.astype(np.int64)
    stays = (size >= least) & (size <= most)
    if least > 0 and dropped + kept < count:
        wanted = (dropped + kept - (size > least).sum()) / (size == least).sum()
        stays &= (size != least) | (chance < max(limit_of(wanted), 1))
    if dropped:
        unwanted = (dropped - (size > most).sum()) / (size == most).sum()
        stays &= (size != most) | (chance >= limit_of(unwanted))
    return stays


def kept_by_rank(delta: Array, density: float, epsilon: float, place: Array) -> Array:
    """DELLA, row by row; ``place`` are the draws. Equals share the mean of their ranks."""
    if density >= 1 or density <= 0:
        return np.full(delta.shape, density >= 1)
    rows = np.abs(delta).reshape(delta.shape[0] if delta.ndim > 1 else 1, -1)
    width = rows.shape[1]
    draw = place.reshape(rows.shape).astype(np.int64)
    if width == 1:
        return (draw < limit_of(density)).reshape(delta.shape)
    surely, never = limit_of(density - epsilon), limit_of(density + epsilon)
    needed = np.clip((draw - surely) * ((width - 1) / (never - surely)), 0, None)
    whole = np.minimum(needed, width - 2).astype(np.int64) + 1
    coin = needed - (whole - 1) < 0.5
    kept = np.empty(rows.shape, bool)
    for at, row in enumerate(rows):
        ordered = np.sort(row)
        least = np.searchsorted(ordered, row, "left")
        most = np.searchsorted(ordered, row, "right") - 1
        enough = (least >= whole[at]) | ((most >= whole[at]) & coin[at])
        kept[at] = (draw[at] < surely) | ((draw[at] < never) & enough)
    return kept.reshape(delta.shape)


def reference(
    method: str,
    name: str,
    target: Array,
    deltas: Sequence[Array],
    weights: Sequence[float],
    refs: Sequence[str],
    parameters: Sequence[dict[str, Any]],
    *,
    normalize: bool | None = None,
    rescale: bool | None = None,
    factor: float = 1.0,
    seed: int = 0,
) -> Array:
    """The merged tensor in the dtype of ``deltas``, before it is rounded."""
    normalize = method in NORMALIZED if normalize is None else normalize
    rescale = method in RESCALED if rescale is None else rescale
    number = deltas[0].dtype.type
    rows = []
    for delta, weight, ref, own in zip(deltas, weights, refs, parameters, strict=True):
        density = own.get("density", 1.0)
        place = draws(key_of(seed, ref, name), 0, delta.size).reshape(delta.shape)
        if method.startswith("dare"):
            kept = place < limit_of(density)
        elif method.startswith("della"):
            kept = kept_by_rank(delta, density, own.get("epsilon", 0.15), place)
        else:
            gamma = own.get("gamma", 0.01) if method.startswith("bread") else None
            kept = kept_by_size(delta, density, gamma, place)
        row = np.where(kept, delta, 0)
        if rescale and density < 1:
            before = np.abs(delta).sum(dtype=np.float64)
            after = np.abs(row).sum(dtype=np.float64)
            if min(before, after) >= 1e-7:
                row = row * number(before / after)
        rows.append(row * number(weight))
    total = np.zeros_like(rows[0])
    for row in rows:
        total = total + row
    if method not in ELECTING:
        by = number(sum(weights))
        return target + number(factor) * (total / by if normalize and abs(by) >= 1e-8 else total)
    sign = np.where(total >= 0, 1, -1)
    merged, share = np.zeros_like(total), np.zeros_like(total)
    for row, weight in zip(rows, weights, strict=True):
        agrees = np.sign(row) == sign
        merged = merged + np.where(agrees, row, 0)
        share = share + np.where(agrees, number(weight), number(0))
    if normalize:
        merged = merged / np.where(share == 0, number(1), share)
    return target + number(factor) * merged
