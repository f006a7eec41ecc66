"""Several tensors' numbers read by one call that holds no lock.

A block needs the same run of elements of the foundation and of every fine-tune. One compiled call
reads them all: between two of them, other threads would otherwise wait for the interpreter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vectors.tensorfile.checkpoint import Tensor, TensorLike
from vectors.tensorfile.compiled import external, njit
from vectors.tensorfile.source import FileSource

# POSIX: ssize_t pread(int, void *, size_t, off_t), looked up in the C library.
_pread: Any = external("pread", "intp", "intc", "uintp", "uintp", "int64")


@njit(nogil=True, cache=True)
def _read(files, starts, goal, row_bytes, nbytes):
    # Rows of the goal (address, row_bytes apart) from the files, each from its start.
    for k in range(files.size):
        done = 0
        while done < nbytes:
            got = _pread(
                files[k],
                np.uintp(goal + k * row_bytes + done),
                np.uintp(nbytes - done),
                starts[k] + done,
            )
            if got <= 0:
                return False
            done += got
    return True


def read_together(tensors: Sequence[TensorLike], lo: int, hi: int, out: np.ndarray) -> None:
    """Elements ``[lo, hi)`` of 16-bit tensors as they are stored, into ``out`` (K, n) uint16.

    Raises TensorFileError as reading one by one does.
    """
    files = np.empty(len(tensors), np.int32)
    starts = np.empty(len(tensors), np.int64)
    for k, tensor in enumerate(tensors):
        if not isinstance(tensor, Tensor) or not isinstance(tensor.source, FileSource):
            break
        files[k] = tensor.source.descriptor
        starts[k] = tensor.entry.start + 2 * lo
    else:
        if _read(files, starts, out.ctypes.data, out.strides[0], 2 * (hi - lo)):
            return
    # Not files, or one that ended early: what is wrong is said by whoever reads it alone.
    for row, tensor in zip(out, tensors, strict=True):
        tensor.read_into(2 * lo, memoryview(row.view(np.uint8)))
