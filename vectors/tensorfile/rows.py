"""Rows of several tensors read as one tensor: a vocabulary matrix in another model's order."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from .checkpoint import TensorLike
from .dtypes import DTYPES
from .errors import TensorFileError, _
from .header import tensor_bytes
from .names import shape_text
from .numbers import narrow, widen

_CONVERT_ELEMENTS = 64 * 1024

# The types that hold every number of a type, infinities and signed zeros included.
_EXACT_IN = {
    "F8_E4M3": {"F8_E4M3", "F16", "BF16", "F32", "F64"},
    "F8_E5M2": {"F8_E5M2", "F16", "BF16", "F32", "F64"},
    "F16": {"F16", "F32", "F64"},
    "BF16": {"BF16", "F32", "F64"},
    "F32": {"F32", "F64"},
    "F64": {"F64"},
}


def common_dtype(dtypes: Iterable[str]) -> str | None:
    """The narrowest type that holds every number of all ``dtypes``, None when there is none.

    One type is its own answer; integers, booleans and block scales go with nothing else.
    """
    wanted = set(dtypes)
    if len(wanted) == 1:
        return wanted.pop()
    holders = [_EXACT_IN.get(dtype, set()) for dtype in wanted]
    return next((d for d in _EXACT_IN if all(d in holder for holder in holders)), None)


class Zeros:
    """A tensor of zeros that is stored nowhere: the rows nobody has."""

    def __init__(self, name: str, dtype: str, shape: Sequence[int]) -> None:
        self.name, self.dtype, self.shape = name, dtype, tuple(shape)
        self.nbytes = tensor_bytes(dtype, self.shape)
        self.count = math.prod(self.shape)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` with zeros."""
        buffer[:] = bytes(len(buffer))


class MappedRows:
    """A tensor whose row i is row ``rows[i]`` of ``tensors[which[i]]``.

    The tensors agree in all axes but that of the rows. ``axis`` is where the rows are: 0, or 1 for
    BART's ``final_logits_bias``, (1, vocabulary), and for a factor (rank, vocabulary) of a LoRA.
    ``dtype`` is the narrowest that holds all of them exactly, so no number changes; where it is a
    tensor's own, its bytes are handed on as they are.

    Reads like a Tensor of a checkpoint: any byte range alone, from several threads, holding no
    more than one block besides the buffer. Neighbouring rows of one tensor are one read.
    """

    def __init__(
        self,
        name: str,
        tensors: Sequence[TensorLike],
        which: np.ndarray,
        rows: np.ndarray,
        *,
        axis: int = 0,
    ) -> None:
        """``which`` and ``rows`` are integers, (n,) each.

        Raises TensorFileError naming the tensors when their shapes or types do not go together,
        or the one that has no such row.
        """
        which, rows = np.asarray(which, np.int64), np.asarray(rows, np.int64)
        if which.ndim != 1 or which.shape != rows.shape:
            raise ValueError(f"which is {which.shape} and rows {rows.shape}; both must be (n,)")
        self.name = name
        self.tensors = tuple(tensors)
        dtype, before, after = _checked(self.tensors, axis)
        self.dtype = dtype
        self.shape = (*before, len(rows), *after)
        self.nbytes = tensor_bytes(dtype, self.shape)
        self.count = math.prod(self.shape)
        self._row_bytes = math.prod(after) * DTYPES[dtype].size
        heights = _check_rows(name, self.tensors, which, rows, axis)
        blocks = np.arange(math.prod(before))  # what lies before the rows' axis repeats them
        rows = (rows + heights[which] * blocks[:, None]).ravel()
        which = np.tile(which, len(blocks))
        begins = np.ones(len(rows), bool)
        begins[1:] = (which[1:] != which[:-1]) | (rows[1:] != rows[:-1] + 1)
        self._starts = np.append(np.flatnonzero(begins), len(rows))
        self._which, self._rows = which[begins], rows[begins]

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` with the tensor's bytes from its byte ``offset`` on."""
        stop = offset + len(buffer)
        if offset < 0 or stop > self.nbytes:
            raise TensorFileError(
                _("`%(tensor)s` has %(size)d bytes; %(start)d to %(stop)d were asked for."),
                tensor=self.name,
                size=self.nbytes,
                start=offset,
                stop=stop,
            )
        if offset == stop:
            return
        run = int(np.searchsorted(self._starts, offset // self._row_bytes, "right")) - 1
        at = offset
        while at < stop:
            begin = int(self._starts[run]) * self._row_bytes
            end = min(int(self._starts[run + 1]) * self._row_bytes, stop)
            tensor = self.tensors[int(self._which[run])]
            place = int(self._rows[run]) * self._row_bytes + at - begin
            piece = buffer[at - offset : end - offset]
            if tensor.dtype == self.dtype:
                tensor.read_into(place, piece)
            else:
                self._convert(tensor, place, piece)
            at = end
            run += 1

    def _convert(self, tensor: TensorLike, place: int, buffer: memoryview) -> None:
        """As ``tensor.read_into``, with places and bytes counted in this view's type."""
        size, stored = DTYPES[self.dtype].size, DTYPES[tensor.dtype].size
        wide = np.float64 if self.dtype == "F64" else np.float32
        stop = place + len(buffer)
        last = -(-stop // size)
        for lo in range(place // size, last, _CONVERT_ELEMENTS):
            hi = min(lo + _CONVERT_ELEMENTS, last)
            raw = np.empty((hi - lo) * stored, np.uint8)
            tensor.read_into(lo * stored, memoryview(raw))
            numbers = widen(raw, tensor.dtype, np.empty(hi - lo, wide))
            out = narrow(numbers, self.dtype, np.empty((hi - lo) * size, np.uint8))
            first, end = max(place, lo * size), min(stop, hi * size)
            piece = out[first - lo * size : end - lo * size]
            buffer[first - place : end - place] = memoryview(piece)


def _checked(
    tensors: Sequence[TensorLike], axis: int
) -> tuple[str, tuple[int, ...], tuple[int, ...]]:
    """The common dtype, and the axes before and after that of the rows."""
    first = tensors[0]
    for tensor in tensors:
        if (
            len(tensor.shape) <= axis
            or tensor.shape[:axis] != first.shape[:axis]
            or tensor.shape[axis + 1 :] != first.shape[axis + 1 :]
        ):
            raise TensorFileError(
                _(
                    "`%(first)s` is %(first_shape)s and `%(second)s` is %(second_shape)s: their "
                    "rows do not go into one tensor."
                ),
                first=first.name,
                first_shape=shape_text(first.shape),
                second=tensor.name,
                second_shape=shape_text(tensor.shape),
            )
    dtype = common_dtype(tensor.dtype for tensor in tensors)
    if dtype is None:
        other = next(t for t in tensors if common_dtype((t.dtype, first.dtype)) is None)
        raise TensorFileError(
            _(
                "`%(first)s` is %(first_dtype)s and `%(second)s` is %(second_dtype)s: no type "
                "holds the numbers of both."
            ),
            first=first.name,
            first_dtype=first.dtype,
            second=other.name,
            second_dtype=other.dtype,
        )
    return dtype, first.shape[:axis], first.shape[axis + 1 :]


def _check_rows(
    name: str, tensors: Sequence[TensorLike], which: np.ndarray, rows: np.ndarray, axis: int
) -> np.ndarray:
    """How many rows each tensor has."""
    if len(which) and not 0 <= which.min() <= which.max() < len(tensors):
        raise ValueError(f"which goes from {which.min()} to {which.max()}")
    heights = np.array([tensor.shape[axis] for tensor in tensors], np.int64)
    outside = np.flatnonzero((rows < 0) | (rows >= heights[which]))
    if outside.size:
        at = int(outside[0])
        tensor = tensors[int(which[at])]
        raise TensorFileError(
            _(
                "Row %(at)d of `%(tensor)s` would be row %(row)d of `%(source)s`, which has only "
                "%(rows)d rows."
            ),
            at=at,
            tensor=name,
            row=int(rows[at]),
            source=tensor.name,
            rows=tensor.shape[axis],
        )
    return heights
