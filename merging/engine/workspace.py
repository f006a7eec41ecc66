"""Scratch memory of one thread: buffers that are reused for every block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from vectors.tensorfile.numbers import widen

if TYPE_CHECKING:
    from vectors.tensorfile.checkpoint import TensorLike

    from .pieces import Product

BLOCK_ELEMENTS = 64 * 1024


class Workspace:
    """Reusable buffers of one thread, and the numbers of the foundation for the block at hand."""

    def __init__(self) -> None:
        self._arrays: dict[tuple[str, Any], np.ndarray] = {}
        self._factors: dict[int, tuple[object, np.ndarray, np.ndarray]] = {}
        self._finite: dict[int, bool] = {}
        self._bases: dict[tuple[int, int, int], np.ndarray] = {}
        self.held: tuple[object, Any] | None = None  # what a method keeps of the tensor at hand

    def array(self, name: str, count: int, dtype: Any) -> np.ndarray:
        """A 1-D array of ``count`` elements; its content is whatever was left there."""
        held = self._arrays.get((name, dtype))
        if held is None or held.size < count:
            held = np.empty(max(count, BLOCK_ELEMENTS), dtype)
            self._arrays[name, dtype] = held
        return held[:count]

    def matrix(self, name: str, rows: int, count: int, dtype: Any) -> np.ndarray:
        """A (rows, count) array, contiguous; its content is whatever was left there."""
        return self.array(f"{name} x {rows}", rows * count, dtype).reshape(rows, count)

    def raw(self, tensor: TensorLike, lo: int, hi: int, name: str) -> np.ndarray:
        """Elements ``[lo, hi)`` of a 16-bit tensor as they are stored (uint16)."""
        out = self.array(name, hi - lo, np.uint16)
        tensor.read_into(2 * lo, memoryview(out.view(np.uint8)))
        return out

    def read(self, tensor: TensorLike, lo: int, hi: int, out: np.ndarray, name: str) -> np.ndarray:
        """Elements ``[lo, hi)`` of ``tensor`` as numbers, into ``out``."""
        size = tensor.nbytes // max(tensor.count, 1)
        raw = self.array(name, (hi - lo) * size, np.uint8)
        tensor.read_into(lo * size, memoryview(raw))
        return widen(raw, tensor.dtype, out)

    def base(self, tensor: TensorLike, lo: int, hi: int, dtype: Any) -> np.ndarray:
        """Elements ``[lo, hi)`` of the foundation's ``tensor``, read once a block."""
        key = id(tensor), lo, hi
        if key not in self._bases:
            out = self.array(f"base {len(self._bases)}", hi - lo, dtype)
            self._bases[key] = self.read(tensor, lo, hi, out, "base raw")
        return self._bases[key]

    def forget_bases(self) -> None:
        """The next block begins."""
        self._bases.clear()

    def factors(self, piece: Product, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
        """Left (rows, r) and right (r, columns) of a low-rank piece, kept while it is in use."""
        held = self._factors.get(id(piece))
        if held is None or held[0] is not piece or held[1].dtype != dtype:
            left, right = piece.load(dtype)
            self._factors[id(piece)] = held = (piece, left, right)
        return held[1], held[2]

    def finite_factors(self, piece: Product, dtype: Any) -> bool:
        """Whether every number of the factors is finite; looked at once while they are in use."""
        if id(piece) not in self._finite:
            pair = self.factors(piece, dtype)
            self._finite[id(piece)] = all(bool(np.isfinite(factor).all()) for factor in pair)
        return self._finite[id(piece)]

    def forget_tensor(self) -> None:
        """Drop what belongs to one tensor: the merge moved on to another."""
        self._factors.clear()
        self._finite.clear()
        self.held = None
