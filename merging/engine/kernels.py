"""The inner loops: compiled, elementwise, lock-free, and the same bits everywhere.

Multiply, then add, each rounded: fast-math stays off, so the compiler may not fuse the two into
one operation that another machine does not have. ``KERNEL`` changes whenever a bit of any result
could change; it is part of what identifies a merged file.
"""

from __future__ import annotations

import numpy as np
from numba import njit

KERNEL = "1"


@njit(nogil=True, cache=True)
def _add_scaled(total, weight, x):
    for i in range(total.size):
        total[i] = total[i] + weight * x[i]


@njit(nogil=True, cache=True)
def _subtract(x, base):
    for i in range(x.size):
        x[i] = x[i] - base[i]


@njit(nogil=True, cache=True)
def _low_rank_rows(out, left, right, scale):
    # out (rows, columns) = scale · left (rows, r) · right (r, columns), summed over r in order.
    rows, rank = left.shape
    columns = right.shape[1]
    for i in range(rows):
        for j in range(columns):
            out[i, j] = 0
        for k in range(rank):
            factor = left[i, k]
            for j in range(columns):
                out[i, j] = out[i, j] + factor * right[k, j]
        for j in range(columns):
            out[i, j] = scale * out[i, j]


def add_scaled(total: np.ndarray, weight: float, x: np.ndarray) -> None:
    """total += weight · x, in total's dtype; two roundings an element."""
    _add_scaled(total, total.dtype.type(weight), x)


def subtract(x: np.ndarray, base: np.ndarray) -> None:
    """x −= base."""
    _subtract(x, base)


def low_rank_rows(out: np.ndarray, left: np.ndarray, right: np.ndarray, scale: float) -> None:
    """out (rows, columns) = scale · left (rows, r) · right (r, columns), in a fixed order.

    Not BLAS: its bits depend on library, threads and block shape.
    """
    _low_rank_rows(out, left, right, out.dtype.type(scale))
