"""From files to a file in one call that holds no lock: the commonest merges, written down.

Reading a block, merging it and writing it are a handful of calls each of which waits for the
interpreter when another thread has it; on two cores that is a fifth of the time. Here the whole
run of blocks is one compiled call. The loops are those that a stream uses, so are the bytes; and
where anything is not as usual (a file that ends early, a full disk, a number that is none) the
call says so, and the run is done again by the ordinary way, which knows what to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vectors.tensorfile.checkpoint import TensorLike
from vectors.tensorfile.compiled import external, njit

from .gather import RUN, _read, places, read_run, stored_in_files
from .kernels import (
    _EXPONENTS,
    _carries,
    _finish_low_rank_bf16,
    _sum_differences_bf16,
)
from .sparsify import NO_MASKS, Trim, _sum_bf16
from .workspace import Workspace

MEMORY = -1  # instead of a file's descriptor: the place is an address of this process

# POSIX: ssize_t pwrite(int, const void *, size_t, off_t), looked up in the C library.
_pwrite: Any = external("pwrite", "intp", "intc", "uintp", "uintp", "int64")
# C: void *memcpy(void *, const void *, size_t).
_memcpy: Any = external("memcpy", "uintp", "uintp", "uintp", "uintp")
_MASK, _CARRY, _SIGN = map(np.uint64, _EXPONENTS["BF16"])


@njit(nogil=True, cache=True)
def _write(file, at, address, nbytes):
    if file == MEMORY:
        _memcpy(np.uintp(at), np.uintp(address), np.uintp(nbytes))
        return True
    done = 0
    while done < nbytes:
        put = _pwrite(file, np.uintp(address + done), np.uintp(nbytes - done), at + done)
        if put <= 0:
            return False
        done += put
    return True


@njit(nogil=True, cache=True)
def _broken(words):
    # Whether any of the numbers, four in a word, is infinite or none.
    return _carries(words, _MASK, _CARRY) & _SIGN != 0


@njit(nogil=True, cache=True)
def _sum_to_file(
    files, starts, own_target, weights, divisor, factor, count, stored, words, out, goal, at
):
    # files and starts: the foundation, the fine-tunes, and the target where it is another model.
    numbers = words.view(np.uint16)
    for lo in range(0, count, numbers.size):
        n = min(numbers.size, count - lo)
        if not _read(files, starts + 2 * lo, stored[0], stored[1], 2 * n):
            return False
        rows = out
        base = rows[0, :n]
        target = rows[files.size - 1, :n] if own_target else base
        words[n // 4 :] = 0
        _sum_differences_bf16(target, base, rows[1:], weights, divisor, factor, numbers[:n])
        if _broken(words):
            return False
        if not _write(goal, at + 2 * lo, words.ctypes.data, 2 * n):
            return False
    return True


@njit(nogil=True, cache=True)
def _product_to_file(
    files, starts, left, right, scale, weight, factor, first, count, stored, words, out, goal, at
):
    numbers = words.view(np.uint16)
    columns = right.shape[1]
    # Whole pairs of rows are computed together, so a run ends with one where it can.
    length = numbers.size // (2 * columns) * (2 * columns)
    lo = 0
    while lo < count:
        n = numbers.size if length == 0 else length - (first + lo) % columns
        n = min(n, count - lo)
        if not _read(files, starts + 2 * lo, stored[0], stored[1], 2 * n):
            return False
        words[n // 4 :] = 0
        _finish_low_rank_bf16(
            out[0, :n], left, right, scale, weight, factor, first + lo, numbers[:n]
        )
        if _broken(words):
            return False
        if not _write(goal, at + 2 * lo, words.ctypes.data, 2 * n):
            return False
        lo += n
    return True


@njit(nogil=True, cache=True)
def _trimmed_to_file(
    source, own_target, rule, kept, weights, elect, normalize, divisor, factor, first, last,
    words, goal, at,
):  # fmt: skip
    # The foundation, the fine-tunes, and the target where it is another model.
    numbers = words.view(np.uint16)
    rows = source[2]
    for lo in range(first, last, numbers.size):
        n = min(numbers.size, last - lo)
        if not read_run(source, lo, n):
            return False
        base = rows[0, :n]
        target = rows[rows.shape[0] - 1, :n] if own_target else base
        words[n // 4 :] = 0
        _sum_bf16(
            target, base, rows[1:], lo, rule, kept, 0, weights, elect, normalize, divisor, factor,
            numbers[:n],
        )  # fmt: skip
        if _broken(words):
            return False
        if not _write(goal, at + 2 * (lo - first), words.ctypes.data, 2 * n):
            return False
    return True


def write_sum(
    target: TensorLike,
    base: TensorLike,
    tuned: Sequence[TensorLike],
    weights: np.ndarray,
    divisor: float,
    factor: float,
    span: tuple[int, int],
    goal: tuple[int, int],
    work: Workspace,
) -> bool:
    """Write the elements ``span`` of target + factor · Σ wₖ (tunedₖ − base) / divisor.

    All tensors are BF16. ``goal`` is a file descriptor and the place in that file, or MEMORY and
    an address. False where this was not possible; then what is there must be written again.
    """
    own_target = target is not base
    found = places([base, *tuned, *([target] if own_target else [])], span[0])
    if found is None:
        return False
    stored, words = _scratch(len(found[0]), work)
    return bool(
        _sum_to_file(
            *found,
            own_target,
            weights,
            np.float32(divisor),
            np.float32(factor),
            span[1] - span[0],
            (stored.ctypes.data, stored.strides[0]),
            words,
            stored,
            *goal,
        )
    )


def write_product(
    target: TensorLike,
    left: np.ndarray,
    right: np.ndarray,
    scale: float,
    weight: float,
    factor: float,
    span: tuple[int, int],
    goal: tuple[int, int],
    work: Workspace,
) -> bool:
    """Write the elements ``span`` of target + factor · weight · scale · left · right.

    As `write_sum`; the factors are float32 (rows, r) and (r, columns).
    """
    found = places([target], span[0])
    if found is None:
        return False
    stored, words = _scratch(1, work)
    return bool(
        _product_to_file(
            *found,
            left,
            right,
            np.float32(scale),
            np.float32(weight),
            np.float32(factor),
            *(span[0], span[1] - span[0]),
            (stored.ctypes.data, stored.strides[0]),
            words,
            stored,
            *goal,
        )
    )


def write_trimmed(
    target: TensorLike,
    base: TensorLike,
    tuned: Sequence[TensorLike],
    trim: Trim,
    weights: np.ndarray,
    *,
    elect: bool,
    normalize: bool,
    divisor: float,
    factor: float,
    span: tuple[int, int],
    goal: tuple[int, int],
    work: Workspace,
) -> bool:
    """Write the elements ``span`` of `trimmed_sum_bf16`. As `write_sum`."""
    own_target = target is not base
    stored = stored_in_files([base, *tuned, *([target] if own_target else [])], work)
    if stored is None:
        return False
    return bool(
        _trimmed_to_file(
            stored.source,
            own_target,
            trim.rule,
            NO_MASKS.kept,
            weights,
            elect,
            normalize,
            np.float32(divisor),
            np.float32(factor),
            *span,
            work.array("words", RUN // 4, np.uint64),
            *goal,
        )
    )


def _scratch(rows: int, work: Workspace) -> tuple[np.ndarray, np.ndarray]:
    return work.matrix("stored", rows, RUN, np.uint16), work.array("words", RUN // 4, np.uint64)
