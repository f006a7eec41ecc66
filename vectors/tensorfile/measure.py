"""One pass over a tensor: how large its delta is, whether every value is finite, and its hash."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .checkpoint import Tensor
from .dtypes import DTYPES
from .lora import LowRank
from .numbers import moments, widen

BLOCK_ELEMENTS = 256 * 1024


@dataclass
class Measure:
    """Of one tensor: Σδ², Σθ², elements in all, elements with δ ≠ 0, elements not finite.

    ``digest`` is the SHA-256 of the stored bytes, empty where they are not one tensor (LoRA).
    """

    delta_square: float = 0.0
    base_square: float = 0.0
    count: int = 0
    changed: int = 0
    broken: int = 0
    digest: str = ""


def measure(
    tensor: Tensor,
    base: Tensor | None = None,
    *,
    is_delta: bool = False,
    on_bytes: Callable[[int], None] | None = None,
    on_delta: Callable[[int, np.ndarray], None] | None = None,
) -> Measure:
    """Read ``tensor`` once and measure it.

    With ``base`` (equal trailing shape) δ = tensor − base over the shared leading elements; with
    ``is_delta`` the tensor is δ itself; with neither, δ is the tensor and Σδ² is its own square.
    ``on_delta`` is given δ block by block: the number of its first element, and float64.
    """
    result = Measure(count=tensor.count)
    digest = hashlib.sha256()
    item = DTYPES[tensor.dtype].size
    numeric = DTYPES[tensor.dtype].mergeable
    shared = min(tensor.count, base.count) if base is not None else tensor.count
    for lo in range(0, tensor.count, BLOCK_ELEMENTS):
        hi = min(lo + BLOCK_ELEMENTS, tensor.count)
        raw = np.empty((hi - lo) * item, np.uint8)
        tensor.read_into(lo * item, memoryview(raw))
        digest.update(raw)
        if numeric:
            values = widen(raw, tensor.dtype, np.empty(hi - lo, np.float64))
            reference = np.zeros(hi - lo)
            if base is not None and not is_delta and lo < shared:
                upper = min(hi, shared)
                reference[: upper - lo] = _read(base, lo, upper)
            delta = values - reference if base is not None and not is_delta else values
            square, base_square, changed, broken = moments(delta, reference)
            result.delta_square += square
            result.base_square += base_square
            result.changed += changed
            result.broken += broken
            if on_delta:
                on_delta(lo, delta)
        if on_bytes:
            on_bytes(raw.nbytes)
    result.digest = digest.hexdigest()
    return result


def measure_low_rank(
    low_rank: LowRank,
    *,
    on_factors: Callable[[np.ndarray, np.ndarray, float], None] | None = None,
) -> Measure:
    """Norm of scale · left · right without forming it: ‖LR‖² = tr((LᵀL)(RRᵀ)).

    ``on_factors`` is given left (rows, r), right (r, columns) and the scale, where all is finite.
    """
    left, broken_left = _matrix(low_rank.left)
    right, broken_right = _matrix(low_rank.right)
    rank = low_rank.rank
    left = left.reshape(rank, -1).T if low_rank.transposed else left.reshape(-1, rank)
    right = right.reshape(-1, rank).T if low_rank.transposed else right.reshape(rank, -1)
    broken = broken_left + broken_right
    count = math.prod(low_rank.shape)
    if broken:
        return Measure(count=count, broken=broken)
    if on_factors:
        on_factors(left, right, low_rank.scale)
    square = float(np.sum((left.T @ left) * (right @ right.T))) * low_rank.scale**2
    square = max(square, 0.0)
    return Measure(delta_square=square, count=count, changed=count if square > 0 else 0)


def first_broken(tensor: Tensor) -> str:
    """What the first value that is not finite is: ``NaN`` or ``infinity``."""
    for lo in range(0, tensor.count, BLOCK_ELEMENTS):
        values = _read(tensor, lo, min(lo + BLOCK_ELEMENTS, tensor.count))
        bad = values[~np.isfinite(values)]
        if bad.size:
            return "NaN" if np.isnan(bad[0]) else "infinity"
    return ""


def relative_distance(tensor: Tensor, base: Tensor) -> float:
    """‖tensor − base‖ / ‖base‖ of two tensors of equal shape."""
    found = measure(tensor, base)
    return math.sqrt(found.delta_square / found.base_square) if found.base_square else math.inf


def _read(tensor: Tensor, lo: int, hi: int) -> np.ndarray:
    item = DTYPES[tensor.dtype].size
    raw = np.empty((hi - lo) * item, np.uint8)
    tensor.read_into(lo * item, memoryview(raw))
    return widen(raw, tensor.dtype, np.empty(hi - lo, np.float64))


def _matrix(tensor: Tensor) -> tuple[np.ndarray, int]:
    values = _read(tensor, 0, tensor.count)
    return values, int(np.count_nonzero(~np.isfinite(values)))
