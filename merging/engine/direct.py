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

from vectors.tensorfile.checkpoint import Tensor, TensorLike
from vectors.tensorfile.compiled import external, njit
from vectors.tensorfile.source import FileSource

from .gather import _read
from .kernels import (
    _EXPONENTS,
    _carries,
    _finish_low_rank_bf16,
    _sum_differences_bf16,
)
from .workspace import Workspace

RUN = 128 * 1024  # elements at a time: two rows of them fit into the second-level cache

# POSIX: ssize_t pwrite(int, const void *, size_t, off_t), looked up in the C library.
_pwrite: Any = external("pwrite", "intp", "intc", "uintp", "uintp", "int64")
_MASK, _CARRY, _SIGN = map(np.uint64, _EXPONENTS["BF16"])


@njit(nogil=True, cache=True)
def _write(file, at, address, nbytes):
    done = 0
    while done < nbytes:
        put = _pwrite(file, np.uintp(address + done), np.uintp(nbytes - done), at + done)
        if put <= 0:
            return False
        done += put
    return True


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
        if _carries(words, _MASK, _CARRY) & _SIGN:
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
        if _carries(words, _MASK, _CARRY) & _SIGN:
            return False
        if not _write(goal, at + 2 * lo, words.ctypes.data, 2 * n):
            return False
        lo += n
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

    All tensors are BF16. ``goal`` is a file descriptor and the place in that file. False where
    this was not possible; then what is there must be written again.
    """
    own_target = target is not base
    places = _places([base, *tuned, *([target] if own_target else [])], span[0])
    if places is None:
        return False
    stored, words = _scratch(len(places[0]), work)
    return bool(
        _sum_to_file(
            *places,
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
    places = _places([target], span[0])
    if places is None:
        return False
    stored, words = _scratch(1, work)
    return bool(
        _product_to_file(
            *places,
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


def _places(tensors: Sequence[TensorLike], lo: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Descriptor, and byte of element ``lo``, of each tensor; None unless all are in files."""
    files = np.empty(len(tensors), np.int32)
    starts = np.empty(len(tensors), np.int64)
    for k, tensor in enumerate(tensors):
        if not isinstance(tensor, Tensor) or not isinstance(tensor.source, FileSource):
            return None
        files[k] = tensor.source.descriptor
        starts[k] = tensor.entry.start + 2 * lo
    return files, starts


def _scratch(rows: int, work: Workspace) -> tuple[np.ndarray, np.ndarray]:
    return work.matrix("stored", rows, RUN, np.uint16), work.array("words", RUN // 4, np.uint64)
