"""Inner products of a tensor's terms: all that norms, angles and means on a sphere need.

Every product is summed in float64: in lanes of a fixed number within a segment, then segment after
segment. So neither the width of a machine's registers nor the cutting of a file into ranges
changes a bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from vectors.tensorfile.compiled import njit

from .block import Block
from .errors import MergeError, _
from .whole import SEGMENT, Whole

LANES = 32

Rows = Callable[[Block], np.ndarray]
Along = Literal["all", "rows", "columns"]


@njit(nogil=True, cache=True)
def _inner_products(x, width, out):
    # out (n / width, K, K): products of every pair of rows of x (K, n), run by run.
    lanes = np.empty(LANES, np.float64)
    for at in range(out.shape[0]):
        first = at * width
        for i in range(x.shape[0]):
            a = x[i, first : first + width]
            for j in range(i, x.shape[0]):
                b = x[j, first : first + width]
                for lane in range(LANES):
                    lanes[lane] = 0
                even = width - width % LANES
                for start in range(0, even, LANES):
                    for lane in range(LANES):
                        lanes[lane] += np.float64(a[start + lane]) * np.float64(b[start + lane])
                for lane in range(width - even):
                    lanes[lane] += np.float64(a[even + lane]) * np.float64(b[even + lane])
                total = 0.0
                for lane in range(LANES):
                    total += lanes[lane]
                out[at, i, j] = total
                out[at, j, i] = total


@njit(nogil=True, cache=True)
def _column_products(x, columns, out):
    # out (K, K, columns) += products of every pair of rows of x (K, rows · columns), by column.
    for i in range(x.shape[0]):
        for j in range(i, x.shape[0]):
            sums = out[i, j]
            for first in range(0, x.shape[1], columns):
                a = x[i, first : first + columns]
                b = x[j, first : first + columns]
                for at in range(columns):
                    sums[at] += np.float64(a[at]) * np.float64(b[at])


def gram(whole: Whole, rows_of: Rows, along: Along = "all") -> np.ndarray:
    """Inner products of the K rows that ``rows_of`` gives of every block: (m, K, K), float64.

    ``along`` says of which vectors: the flattened tensor (m = 1), each run of the last axis, or
    each run of the first. Raises MergeError where a product is infinite or no number.
    """
    found = {"all": _of_all, "rows": _of_rows, "columns": _of_columns}[along](whole, rows_of)
    if not np.isfinite(found).all():
        raise MergeError(
            _(
                "`%(tensor)s` holds numbers whose squares are too large to be added. Use a rule "
                "`keep %(tensor)s`."
            ),
            tensor=whole.name,
        )
    return found


def row_length(shape: tuple[int, ...]) -> int:
    """Length of the last axis; 1 of a scalar."""
    return shape[-1] if shape else 1


def _of_all(whole: Whole, rows_of: Rows) -> np.ndarray:
    total = None
    for block in whole.blocks():
        rows = rows_of(block)
        found = np.empty((1, len(rows), len(rows)))
        _inner_products(rows, block.size, found)
        total = found if total is None else total + found
    assert total is not None
    return total


def _of_rows(whole: Whole, rows_of: Rows) -> np.ndarray:
    width = row_length(whole.shape)
    parts = []
    for block in whole.blocks(max(1, SEGMENT // width) * width):
        rows = rows_of(block)
        found = np.empty((block.size // width, len(rows), len(rows)))
        _inner_products(rows, width, found)
        parts.append(found)
    return np.concatenate(parts)


def _of_columns(whole: Whole, rows_of: Rows) -> np.ndarray:
    total = None
    for block in whole.row_blocks():
        rows = rows_of(block)
        if total is None:
            total = np.zeros((len(rows), len(rows), whole.columns))
        _column_products(rows, whole.columns, total)
    assert total is not None
    upper = np.moveaxis(total, 2, 0)
    return np.triu(upper) + np.swapaxes(np.triu(upper, 1), 1, 2)
