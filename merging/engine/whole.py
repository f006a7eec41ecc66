"""The whole of one tensor, for methods that need more than a run of its elements.

Statistics are taken over segments of a fixed length, in order, by one thread: they do not depend
on how a file is later cut into ranges.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from vectors.tensorfile.checkpoint import TensorLike

from .block import Block, touched
from .gather import Stored, stored_in_files
from .pieces import Piece, Product
from .workspace import Workspace

SEGMENT = 64 * 1024  # elements; part of the definition of every statistic


class Whole:
    """One output tensor as a method's ``prepare`` or ``whole`` sees it.

    ``terms`` are the numbers of the terms that change it, ``shape`` and ``count`` the target's.
    """

    def __init__(
        self, target: TensorLike, pieces: Sequence[Piece | None], dtype: Any, work: Workspace
    ) -> None:
        self._target = target
        self._pieces = pieces
        self.work = work
        self.name = target.name
        self.shape = target.shape
        self.count = target.count
        self.dtype = dtype
        self.terms = touched(pieces)

    @property
    def rows(self) -> int:
        """Length of the first axis (1 for a vector)."""
        return self.shape[0] if len(self.shape) > 1 else 1

    @property
    def columns(self) -> int:
        """Product of the other axes."""
        return math.prod(self.shape[1:]) if len(self.shape) > 1 else self.count

    def blocks(self, elements: int = SEGMENT) -> Iterator[Block]:
        """The tensor in blocks of ``elements``, in order; each is valid until the next."""
        for lo in range(0, self.count, elements):
            yield self.block(lo, min(lo + elements, self.count))

    def block(self, lo: int, hi: int) -> Block:
        """Elements ``[lo, hi)``."""
        return Block(self._target, self._pieces, lo, hi, self.dtype, self.work)

    def stored(self) -> Stored | None:
        """The foundation and the terms' fine-tunes, for loops that read by themselves.

        None unless all of them are plain BF16 tensors of full length in local files.
        """
        pieces = self.block(0, self.count).plain_pieces()
        if pieces is None:
            return None
        return stored_in_files([pieces[0].base, *(piece.tuned for piece in pieces)], self.work)

    def row_blocks(self) -> Iterator[Block]:
        """The tensor in blocks of whole rows, about a segment each (at least one row)."""
        yield from self.blocks(max(1, SEGMENT // max(self.columns, 1)) * self.columns)

    def delta(self, term: int) -> np.ndarray:
        """τ of ``term``, (rows, columns), in memory of its own."""
        out = np.empty(self.count, self.dtype)
        for lo in range(0, self.count, SEGMENT):
            hi = min(lo + SEGMENT, self.count)
            out[lo:hi] = self.block(lo, hi).delta(term)
        return out.reshape(self.rows, self.columns)

    def base(self) -> np.ndarray:
        """The foundation's numbers, (rows, columns), in memory of its own."""
        out = np.empty(self.count, self.dtype)
        for lo in range(0, self.count, SEGMENT):
            hi = min(lo + SEGMENT, self.count)
            out[lo:hi] = self.block(lo, hi).base()
        return out.reshape(self.rows, self.columns)

    def factors(self, term: int) -> tuple[np.ndarray, np.ndarray, float] | None:
        """Left (rows, r), right (r, columns) and scale where ``term`` is stored as a product."""
        piece = self._pieces[term]
        if not isinstance(piece, Product) or piece.count != self.count:
            return None
        left, right = piece.load(self.dtype)
        return left, right, piece.low_rank.scale
