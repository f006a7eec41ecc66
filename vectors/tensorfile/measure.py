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
from .numbers import moments, product_square, widen

BLOCK_ELEMENTS = 256 * 1024
_LARGEST_SQUARE = 1e300  # of one tensor: those of a hundred thousand still have a finite sum


@dataclass
class Measure:
    """Of one tensor: Σδ², Σθ², elements that count, elements with δ ≠ 0, elements not finite.

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
    Elements beyond those of ``base`` must be finite and do not count; nor does any where ``base``
    holds no numbers an ability can live in. ``on_delta`` is given δ block by block: the number of
    its first element, and float64.
    """
    shared = tensor.count if base is None else min(tensor.count, base.count)
    if base is not None and not DTYPES[base.dtype].mergeable:
        shared = 0
    result = Measure(count=shared)
    digest = hashlib.sha256()
    item = DTYPES[tensor.dtype].size
    numeric = DTYPES[tensor.dtype].mergeable
    for lo in range(0, tensor.count, BLOCK_ELEMENTS):
        hi = min(lo + BLOCK_ELEMENTS, tensor.count)
        raw = np.empty((hi - lo) * item, np.uint8)
        tensor.read_into(lo * item, memoryview(raw))
        digest.update(raw)
        if numeric:
            values = widen(raw, tensor.dtype, np.empty(hi - lo, np.float64))
            upper = max(lo, min(hi, shared))
            delta, beyond = values[: upper - lo], values[upper - lo :]
            result.broken += int(np.count_nonzero(~np.isfinite(beyond)))
            reference = np.zeros(upper - lo)
            # What is too large for a double is found below.
            with np.errstate(over="ignore", invalid="ignore"):
                if base is not None and not is_delta and upper > lo:
                    reference = _read(base, lo, upper)
                    delta = delta - reference
                square, base_square, changed, broken = moments(delta, reference)
                result.delta_square += square
                result.base_square += base_square
                result.changed += changed
                result.broken += broken
                if on_delta:
                    on_delta(lo, delta)
        if on_bytes:
            on_bytes(raw.nbytes)
    if not result.broken and not result.delta_square <= _LARGEST_SQUARE:
        result.broken = 1
    result.digest = digest.hexdigest()
    return result


def measure_low_rank(
    low_rank: LowRank,
    *,
    on_factors: Callable[[np.ndarray, np.ndarray, float], None] | None = None,
) -> Measure:
    """Norm of scale · left · right without forming it.

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
    square = product_square(left, right) * low_rank.scale**2
    if not square <= _LARGEST_SQUARE:
        return Measure(count=count, broken=1)
    if on_factors:
        on_factors(left, right, low_rank.scale)
    square = max(square, 0.0)
    return Measure(delta_square=square, count=count, changed=count if square > 0 else 0)


def first_broken(tensor: Tensor) -> str:
    """What the first value that is not finite is: ``NaN`` or ``infinity``."""
    for lo in range(0, tensor.count, BLOCK_ELEMENTS):
        values = _read(tensor, lo, min(lo + BLOCK_ELEMENTS, tensor.count))
        bad = values[~np.isfinite(values)]
        if bad.size:
            return "NaN" if np.isnan(bad[0]) else "infinity"
    return "infinity"  # each is finite, and what is computed of them is not


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
