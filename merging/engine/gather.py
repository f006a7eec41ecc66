"""Several tensors' numbers read by one call that holds no lock.

A block needs the same run of elements of the foundation and of every fine-tune. One compiled call
reads them all: between two of them, other threads would otherwise wait for the interpreter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vectors.tensorfile.checkpoint import Tensor, TensorLike
from vectors.tensorfile.compiled import external, njit
from vectors.tensorfile.source import FileSource

from .workspace import Workspace

RUN = 128 * 1024  # elements at a time: a few rows of them fit into the second-level cache

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


@njit(nogil=True, cache=True)
def read_run(source, lo, count):
    """Read ``count`` elements from ``lo`` on of every tensor of `Stored.source` into its row."""
    files, starts, rows = source
    return _read(files, starts + 2 * lo, rows.ctypes.data, rows.strides[0], 2 * count)


@dataclass(frozen=True)
class Stored:
    """16-bit tensors in local files, for loops that read by themselves.

    ``files`` and ``starts`` (K,) are their descriptors and first bytes, ``rows`` (K, n) of uint16
    is room for a run of each.
    """

    files: np.ndarray
    starts: np.ndarray
    rows: np.ndarray

    @property
    def source(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The same for compiled loops."""
        return self.files, self.starts, self.rows


def stored_in_files(tensors: Sequence[TensorLike], work: Workspace) -> Stored | None:
    """``tensors`` for loops that read by themselves; None unless all are in local files."""
    found = places(tensors, 0)
    if found is None:
        return None
    return Stored(*found, work.matrix("stored", len(tensors), RUN, np.uint16))


def places(tensors: Sequence[TensorLike], lo: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Descriptor, and byte of element ``lo``, of each tensor; None unless all are in files."""
    files = np.empty(len(tensors), np.int32)
    starts = np.empty(len(tensors), np.int64)
    for k, tensor in enumerate(tensors):
        if not isinstance(tensor, Tensor) or not isinstance(tensor.source, FileSource):
            return None
        files[k] = tensor.source.descriptor
        starts[k] = tensor.entry.start + 2 * lo
    return files, starts


def read_together(tensors: Sequence[TensorLike], lo: int, hi: int, out: np.ndarray) -> None:
    """Elements ``[lo, hi)`` of 16-bit tensors as they are stored, into ``out`` (K, n) uint16.

    Raises TensorFileError as reading one by one does.
    """
    found = places(tensors, lo)
    if found and _read(*found, out.ctypes.data, out.strides[0], 2 * (hi - lo)):
        return
    # Not files, or one that ended early: what is wrong is said by whoever reads it alone.
    for row, tensor in zip(out, tensors, strict=True):
        tensor.read_into(2 * lo, memoryview(row.view(np.uint8)))
