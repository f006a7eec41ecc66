"""The inner loops: compiled, elementwise, lock-free, and the same bits everywhere.

Multiply, then add, each rounded: fast-math stays off, so the compiler may not fuse the two into
one operation that another machine does not have. Fused loops work on runs short enough for the
first-level cache; they are the same operations in the same order as the plain ones, so which of
them computes a block changes no bit. ``KERNEL`` changes whenever a bit of any result could
change; it is part of what identifies a merged file.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from vectors.tensorfile.compiled import intrinsic, njit, types

KERNEL = "2"
RUN = 4096  # elements of a run: 16 KB of float32
WIDTH = 2048  # columns of a low-rank product at a time


@intrinsic
def _as_float(_context: Any, _bits: Any) -> Any:
    """The float32 with these bits."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(types.float32))

    return types.float32(types.uint32), generate


@intrinsic
def _as_bits(_context: Any, _number: Any) -> Any:
    """The bits of a float32."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(types.uint32))

    return types.uint32(types.float32), generate


# Loops run over slices from 0 on: an index that might be negative cannot be vectorised, nor can a
# row of a slice of a matrix, whose stride is not known.


@njit(nogil=True, cache=True)
def _add_scaled(total, weight, x):
    for i in range(total.size):
        total[i] = total[i] + weight * x[i]


@njit(nogil=True, cache=True)
def _subtract(x, base):
    for i in range(x.size):
        x[i] = x[i] - base[i]


@njit(nogil=True, cache=True)
def _subtract_bf16(stored, base, out):
    for i in range(out.size):
        out[i] = _as_float(np.uint32(stored[i]) << np.uint32(16)) - base[i]


@njit(nogil=True, cache=True)
def _scale(x, factor):
    for i in range(x.size):
        x[i] = factor * x[i]


@njit(nogil=True, cache=True)
def _four_steps(x, y, f, g, r0, r1, r2, r3):
    # Four steps of the sums of two rows: what is loaded of the right factor serves both.
    f0, f1, f2, f3 = f[0], f[1], f[2], f[3]
    g0, g1, g2, g3 = g[0], g[1], g[2], g[3]
    for j in range(x.size):
        a, b, c, d = r0[j], r1[j], r2[j], r3[j]
        first = x[j] + f0 * a
        first = first + f1 * b
        first = first + f2 * c
        second = y[j] + g0 * a
        second = second + g1 * b
        second = second + g2 * c
        x[j] = first + f3 * d
        y[j] = second + g3 * d


@njit(nogil=True, cache=True)
def _low_rank_pair(x, y, left, i, right, first, last):
    # Rows i and i + 1 of left · right, columns first to last.
    x[:] = 0
    y[:] = 0
    done = 0
    while done + 4 <= left.shape[1]:
        _four_steps(
            x, y, left[i, done : done + 4], left[i + 1, done : done + 4],
            right[done, first:last], right[done + 1, first:last],
            right[done + 2, first:last], right[done + 3, first:last],
        )  # fmt: skip
        done += 4
    for k in range(done, left.shape[1]):
        _add_scaled(x, left[i, k], right[k, first:last])
        _add_scaled(y, left[i + 1, k], right[k, first:last])


@njit(nogil=True, cache=True)
def _low_rank_row(x, left, i, right, first, last):
    # Row i of left · right, columns first to last.
    x[:] = 0
    for k in range(left.shape[1]):
        _add_scaled(x, left[i, k], right[k, first:last])


@njit(nogil=True, cache=True)
def _low_rank_rows(out, left, right, scale):
    # out (rows, columns) = scale · left (rows, r) · right (r, columns), summed over r in order.
    # Two rows, four steps and a run of columns at a time: fewer loads, the same additions.
    rows, columns = out.shape
    for first in range(0, columns, WIDTH):
        last = min(first + WIDTH, columns)
        for i in range(0, rows - 1, 2):
            _low_rank_pair(out[i, first:last], out[i + 1, first:last], left, i, right, first, last)
        if rows % 2:
            _low_rank_row(out[rows - 1, first:last], left, rows - 1, right, first, last)
        for i in range(rows):
            _scale(out[i, first:last], scale)


@njit(nogil=True, cache=True)
def _finish_run_bf16(target, factor, update, out):
    for i in range(out.size):
        theta = _as_float(np.uint32(target[i]) << np.uint32(16))
        b = _as_bits(np.float32(theta + factor * update[i]))
        rounded = (b + np.uint32(0x7FFF) + ((b >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
        quiet = (b >> np.uint32(16)) | np.uint32(0x40)
        is_nan = (b & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
        out[i] = np.uint16(quiet if is_nan else rounded)


@njit(nogil=True, cache=True)
def _finish_low_rank_bf16(target, left, right, scale, weight, factor, lo, out):
    # The product's elements from lo on, times weight, put on the target run by run.
    columns = right.shape[1]
    x = np.empty(WIDTH, np.float32)
    y = np.empty(WIDTH, np.float32)
    hi = lo + out.size
    i = lo // columns
    while i * columns < hi:
        begin = max(lo - i * columns, 0)
        end = min(hi - i * columns, columns)
        two = begin == 0 and (i + 2) * columns <= hi
        for first in range(begin, end, WIDTH):
            last = min(first + WIDTH, end)
            count = last - first
            at = i * columns + first - lo
            if two:
                _low_rank_pair(x[:count], y[:count], left, i, right, first, last)
                below = at + columns
                _finish_product_run_bf16(
                    target[below : below + count],
                    factor,
                    weight,
                    scale,
                    y[:count],
                    out[below : below + count],
                )
            else:
                _low_rank_row(x[:count], left, i, right, first, last)
            _finish_product_run_bf16(
                target[at : at + count], factor, weight, scale, x[:count], out[at : at + count]
            )
        i += 2 if two else 1


# The two that follow round without a care for NaN, in half the time. A NaN made of bfloat16 numbers
# or of finite ones stays a NaN; only one with a full payload in float32 would round to zero.


@njit(nogil=True, cache=True)
def _finish_plain_run_bf16(target, factor, update, out):
    for i in range(out.size):
        theta = _as_float(np.uint32(target[i]) << np.uint32(16))
        b = _as_bits(np.float32(theta + factor * update[i]))
        rounded = (b + np.uint32(0x7FFF) + ((b >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
        out[i] = np.uint16(rounded)


@njit(nogil=True, cache=True)
def _finish_product_run_bf16(target, factor, weight, scale, product, out):
    # A sum of one term: it begins at zero, which turns a product of −0 into 0.
    for i in range(out.size):
        theta = _as_float(np.uint32(target[i]) << np.uint32(16))
        update = np.float32(0) + weight * (scale * product[i])
        b = _as_bits(np.float32(theta + factor * update))
        rounded = (b + np.uint32(0x7FFF) + ((b >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
        out[i] = np.uint16(rounded)


@njit(nogil=True, cache=True)
def _round_run_bf16(numbers, out):
    for i in range(out.size):
        b = _as_bits(numbers[i])
        rounded = (b + np.uint32(0x7FFF) + ((b >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
        quiet = (b >> np.uint32(16)) | np.uint32(0x40)
        is_nan = (b & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
        out[i] = np.uint16(quiet if is_nan else rounded)


@njit(nogil=True, cache=True)
def _add_difference_bf16(total, weight, stored, theta):
    for i in range(total.size):
        fine = _as_float(np.uint32(stored[i]) << np.uint32(16))
        total[i] = total[i] + weight * (fine - theta[i])


@njit(nogil=True, cache=True)
def _add_scaled_bf16(total, weight, stored):
    for i in range(total.size):
        total[i] = total[i] + weight * _as_float(np.uint32(stored[i]) << np.uint32(16))


@njit(nogil=True, cache=True)
def _widen_bf16(stored, out):
    for i in range(out.size):
        out[i] = _as_float(np.uint32(stored[i]) << np.uint32(16))


@njit(nogil=True, cache=True)
def _divide(total, divisor):
    for i in range(total.size):
        total[i] = total[i] / divisor


@njit(nogil=True, cache=True)
def _sum_differences_bf16(target, base, tuned, weights, divisor, factor, out):
    theta = np.empty(RUN, np.float32)
    total = np.empty(RUN, np.float32)
    for first in range(0, out.size, RUN):
        count = min(RUN, out.size - first)
        last = first + count
        _widen_bf16(base[first:last], theta[:count])
        total[:count] = 0
        for k in range(weights.size):
            _add_difference_bf16(total[:count], weights[k], tuned[k, first:last], theta[:count])
        if divisor != 1:
            _divide(total[:count], divisor)
        _finish_plain_run_bf16(target[first:last], factor, total[:count], out[first:last])


@njit(nogil=True, cache=True)
def _sum_models_bf16(models, weights, divisor, out):
    total = np.empty(RUN, np.float32)
    for first in range(0, out.size, RUN):
        count = min(RUN, out.size - first)
        last = first + count
        total[:count] = 0
        for k in range(weights.size):
            _add_scaled_bf16(total[:count], weights[k], models[k, first:last])
        if divisor != 1:
            _divide(total[:count], divisor)
        _round_run_bf16(total[:count], out[first:last])


@njit(nogil=True, cache=True)
def _carries(words, mask, carry):
    found = np.uint64(0)
    for i in range(words.size):
        found |= (words[i] & mask) + carry
    return found


def add_scaled(total: np.ndarray, weight: float, x: np.ndarray) -> None:
    """total += weight · x, in total's dtype; two roundings an element."""
    _add_scaled(total, total.dtype.type(weight), x)


def subtract(x: np.ndarray, base: np.ndarray) -> None:
    """x −= base."""
    _subtract(x, base)


def subtract_bf16(raw: np.ndarray, base: np.ndarray, out: np.ndarray) -> None:
    """out = raw (BF16, as uint16) − base, in float32."""
    _subtract_bf16(raw, base, out)


def low_rank_rows(out: np.ndarray, left: np.ndarray, right: np.ndarray, scale: float) -> None:
    """out (rows, columns) = scale · left (rows, r) · right (r, columns), in a fixed order.

    Not BLAS: its bits depend on library, threads and block shape.
    """
    _low_rank_rows(out, left, right, out.dtype.type(scale))


def finish_low_rank_bf16(
    target: np.ndarray,
    left: np.ndarray,
    right: np.ndarray,
    scale: float,
    weight: float,
    factor: float,
    lo: int,
    out: np.ndarray,
) -> None:
    """out (BF16) = round(target + factor · weight · scale · left · right).

    ``target`` and ``out`` (n,) are the elements from ``lo`` on of matrices (rows, columns); the
    factors are float32 (rows, r) and (r, columns), all of their numbers finite.
    """
    single = np.float32
    _finish_low_rank_bf16(
        target, left, right, single(scale), single(weight), single(factor), lo, out
    )


def finish_bf16(target: np.ndarray, factor: float, update: np.ndarray, out: np.ndarray) -> None:
    """out (BF16) = round(target (BF16) + factor · update (float32))."""
    _finish_run_bf16(target, np.float32(factor), update, out)


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


# Added to the exponent bits of a number these carry into its sign bit just when it is infinite or
# not a number (of F8_E4M3, which has no infinity: when it is all ones). Several numbers at once.
_EXPONENTS = {
    "F64": (0x7FF0000000000000, 0x0010000000000000, 0x8000000000000000),
    "F32": (0x7F8000007F800000, 0x0080000000800000, 0x8000000080000000),
    "F16": (0x7C007C007C007C00, 0x0400040004000400, 0x8000800080008000),
    "BF16": (0x7F807F807F807F80, 0x0080008000800080, 0x8000800080008000),
    "F8_E4M3": (0x7F7F7F7F7F7F7F7F, 0x0101010101010101, 0x8080808080808080),
    "F8_E5M2": (0x7C7C7C7C7C7C7C7C, 0x0404040404040404, 0x8080808080808080),
}


def has_broken(raw: np.ndarray, dtype: str) -> bool:
    """Whether any number stored in ``raw`` (uint8, bytes) is infinite or not a number."""
    mask, carry, sign = map(np.uint64, _EXPONENTS[dtype])
    even = raw.size // 8 * 8
    found = _carries(raw[:even].view(np.uint64), mask, carry)
    if even < raw.size:
        rest = np.zeros(8, np.uint8)
        rest[: raw.size - even] = raw[even:]
        found = np.uint64(found) | _carries(rest.view(np.uint64), mask, carry)
    return bool(np.uint64(found) & sign)
