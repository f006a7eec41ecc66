"""The inner loops: compiled, elementwise, lock-free, and the same bits everywhere.

Multiply, then add, each rounded: fast-math stays off, so the compiler may not fuse the two into
one operation that another machine does not have. Fused loops work on runs short enough for the
first-level cache; they are the same operations in the same order as the plain ones, so which of
them computes a block changes no bit. ``KERNEL`` changes whenever a bit of any result could
change; it is part of what identifies a merged file.
"""

from __future__ import annotations

import numpy as np
from numba import njit

KERNEL = "2"
RUN = 4096  # elements of a run: 16 KB of float32


@njit(nogil=True, cache=True)
def _add_scaled(total, weight, x):
    for i in range(total.size):
        total[i] = total[i] + weight * x[i]


@njit(nogil=True, cache=True)
def _subtract(x, base):
    for i in range(x.size):
        x[i] = x[i] - base[i]


@njit(nogil=True, cache=True)
def _subtract_bf16(raw, base, bits, out):
    for i in range(raw.size):
        bits[i] = np.uint32(raw[i]) << np.uint32(16)
    for i in range(raw.size):
        out[i] = out[i] - base[i]


@njit(nogil=True, cache=True)
def _low_rank_rows(out, left, right, scale):
    # out (rows, columns) = scale · left (rows, r) · right (r, columns), summed over r in order.
    # Four steps of the sum at a time, a run of columns at a time: fewer loads, the same additions.
    rows, rank = left.shape
    columns = right.shape[1]
    width = 1024
    for first in range(0, columns, width):
        last = min(first + width, columns)
        for i in range(rows):
            for j in range(first, last):
                out[i, j] = 0
            k = 0
            while k + 4 <= rank:
                f0, f1, f2, f3 = left[i, k], left[i, k + 1], left[i, k + 2], left[i, k + 3]
                for j in range(first, last):
                    total = out[i, j] + f0 * right[k, j]
                    total = total + f1 * right[k + 1, j]
                    total = total + f2 * right[k + 2, j]
                    out[i, j] = total + f3 * right[k + 3, j]
                k += 4
            while k < rank:
                factor = left[i, k]
                for j in range(first, last):
                    out[i, j] = out[i, j] + factor * right[k, j]
                k += 1
            for j in range(first, last):
                out[i, j] = scale * out[i, j]


@njit(nogil=True, cache=True)
def _round_bf16(bits, stored):
    for i in range(bits.size):
        b = bits[i]
        rounded = (b + np.uint32(0x7FFF) + ((b >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
        quiet = (b >> np.uint32(16)) | np.uint32(0x40)
        is_nan = (b & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
        stored[i] = np.uint16(quiet if is_nan else rounded)


@njit(nogil=True, cache=True)
def _finish_bf16(target, factor, update, out):
    # out = round(target + factor · update), in bfloat16 from float32.
    run = np.empty(RUN, np.float32)
    bits = run.view(np.uint32)
    for first in range(0, out.size, RUN):
        count = min(RUN, out.size - first)
        for i in range(count):
            bits[i] = np.uint32(target[first + i]) << np.uint32(16)
        for i in range(count):
            run[i] = run[i] + factor * update[first + i]
        _round_bf16(bits[:count], out[first : first + count])


@njit(nogil=True, cache=True)
def _sum_differences_bf16(target, base, tuned, weights, divisor, factor, out):
    # out = round(target + factor · (Σ wₖ (tunedₖ − base) / divisor)); tuned is (K, n).
    theta = np.empty(RUN, np.float32)
    theta_bits = theta.view(np.uint32)
    fine = np.empty(RUN, np.float32)
    fine_bits = fine.view(np.uint32)
    total = np.empty(RUN, np.float32)
    for first in range(0, out.size, RUN):
        count = min(RUN, out.size - first)
        for i in range(count):
            theta_bits[i] = np.uint32(base[first + i]) << np.uint32(16)
            total[i] = 0
        for k in range(weights.size):
            weight = weights[k]
            row = tuned[k]
            for i in range(count):
                fine_bits[i] = np.uint32(row[first + i]) << np.uint32(16)
            for i in range(count):
                total[i] = total[i] + weight * (fine[i] - theta[i])
        if divisor != 1:
            for i in range(count):
                total[i] = total[i] / divisor
        for i in range(count):
            theta_bits[i] = np.uint32(target[first + i]) << np.uint32(16)
        for i in range(count):
            theta[i] = theta[i] + factor * total[i]
        _round_bf16(theta_bits[:count], out[first : first + count])


@njit(nogil=True, cache=True)
def _sum_models_bf16(models, weights, divisor, out):
    # out = round(Σ wₖ modelₖ / divisor); models is (K, n).
    fine = np.empty(RUN, np.float32)
    fine_bits = fine.view(np.uint32)
    total = np.empty(RUN, np.float32)
    total_bits = total.view(np.uint32)
    for first in range(0, out.size, RUN):
        count = min(RUN, out.size - first)
        for i in range(count):
            total[i] = 0
        for k in range(weights.size):
            weight = weights[k]
            row = models[k]
            for i in range(count):
                fine_bits[i] = np.uint32(row[first + i]) << np.uint32(16)
            for i in range(count):
                total[i] = total[i] + weight * fine[i]
        if divisor != 1:
            for i in range(count):
                total[i] = total[i] / divisor
        _round_bf16(total_bits[:count], out[first : first + count])


@njit(nogil=True, cache=True)
def _any_above(stored, mask, limit):
    found = 0
    for i in range(stored.size):
        found |= (stored[i] & mask) >= limit
    return found


def add_scaled(total: np.ndarray, weight: float, x: np.ndarray) -> None:
    """total += weight · x, in total's dtype; two roundings an element."""
    _add_scaled(total, total.dtype.type(weight), x)


def subtract(x: np.ndarray, base: np.ndarray) -> None:
    """x −= base."""
    _subtract(x, base)


def subtract_bf16(raw: np.ndarray, base: np.ndarray, out: np.ndarray) -> None:
    """out = raw (BF16, as uint16) − base, in float32."""
    _subtract_bf16(raw, base, out.view(np.uint32), out)


def low_rank_rows(out: np.ndarray, left: np.ndarray, right: np.ndarray, scale: float) -> None:
    """out (rows, columns) = scale · left (rows, r) · right (r, columns), in a fixed order.

    Not BLAS: its bits depend on library, threads and block shape.
    """
    _low_rank_rows(out, left, right, out.dtype.type(scale))


def finish_bf16(target: np.ndarray, factor: float, update: np.ndarray, out: np.ndarray) -> None:
    """out (BF16) = round(target (BF16) + factor · update (float32))."""
    _finish_bf16(target, np.float32(factor), update, out)


def sum_differences_bf16(
    target: np.ndarray,
    base: np.ndarray,
    tuned: np.ndarray,
    weights: np.ndarray,
    divisor: float,
    factor: float,
    out: np.ndarray,
) -> None:
    """out (BF16) = round(target + factor · Σ wₖ (tunedₖ − base) / divisor), ``tuned`` (K, n)."""
    _sum_differences_bf16(
        target, base, tuned, weights, np.float32(divisor), np.float32(factor), out
    )


def sum_models_bf16(
    models: np.ndarray, weights: np.ndarray, divisor: float, out: np.ndarray
) -> None:
    """out (BF16) = round(Σ wₖ modelₖ / divisor), ``models`` (K, n)."""
    _sum_models_bf16(models, weights, np.float32(divisor), out)


# Of a stored number without its sign: from this pattern on it is infinite or not a number.
_LIMITS = {
    "F64": (np.uint64, 0x7FFFFFFFFFFFFFFF, 0x7FF0000000000000),
    "F32": (np.uint32, 0x7FFFFFFF, 0x7F800000),
    "F16": (np.uint16, 0x7FFF, 0x7C00),
    "BF16": (np.uint16, 0x7FFF, 0x7F80),
    "F8_E4M3": (np.uint8, 0x7F, 0x7F),
    "F8_E5M2": (np.uint8, 0x7F, 0x7C),
}


def has_broken(raw: np.ndarray, dtype: str) -> bool:
    """Whether any number stored in ``raw`` (uint8, bytes) is infinite or not a number."""
    kind, mask, limit = _LIMITS[dtype]
    return bool(_any_above(raw.view(kind), kind(mask), kind(limit)))
