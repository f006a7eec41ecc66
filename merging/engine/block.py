"""A block: a run of elements of one output tensor, and what each term contributes to it.

Everything here is about elements ``[lo, hi)`` of the flattened tensor. Blocks are small enough to
stay in the processor's second-level cache, and their scratch is reused, so the memory of a merge
is a few blocks, whatever the size of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vectors.tensorfile.checkpoint import TensorLike

from .gather import read_together
from .pieces import Difference, Piece, Product, Untouched
from .workspace import BLOCK_ELEMENTS, Workspace

__all__ = ["BLOCK_ELEMENTS", "Block", "Workspace"]


class Block:
    """What a method sees: the target's numbers and each term's delta (or model).

    Arrays handed out are scratch of this block: the method may overwrite them. ``terms`` are the
    numbers of the recipe's terms that change this tensor; rows of ``deltas()`` are theirs.
    """

    def __init__(
        self,
        target: TensorLike,
        pieces: Sequence[Piece | None],
        lo: int,
        hi: int,
        dtype: Any,
        work: Workspace,
    ) -> None:
        self._target = target
        self._pieces = pieces
        self.lo, self.hi, self.dtype = lo, hi, dtype
        self.size = hi - lo
        self.work = work
        self.terms = touched(pieces)
        work.forget_bases()

    def wider(self, lo: int, hi: int) -> Block:
        """Elements ``[lo, hi)`` of the same tensor; arrays of this block are then overwritten."""
        return Block(self._target, self._pieces, lo, hi, self.dtype, self.work)

    def scratch(self, name: str) -> np.ndarray:
        """An array of the block's length for intermediate results."""
        return self.work.array(f"method {name}", self.size, self.dtype)

    def target(self) -> np.ndarray:
        """The target's numbers, (n,)."""
        out = self.work.array("target", self.size, self.dtype)
        return self.work.read(self._target, self.lo, self.hi, out, "target raw")

    def deltas(self) -> np.ndarray:
        """τ of the terms in ``terms``, (K, n); zero where a tensor has fewer rows."""
        out = self.work.matrix("terms", len(self.terms), self.size, self.dtype)
        for row, term in enumerate(self.terms):
            self._fill(self._pieces[term], "delta", out[row])
        return out

    def all_deltas(self) -> np.ndarray:
        """τ of every term of the recipe, (T, n); zero where a term leaves the tensor alone."""
        out = self.work.matrix("terms", len(self._pieces), self.size, self.dtype)
        for row, piece in enumerate(self._pieces):
            self._fill(piece, "delta", out[row])
        return out

    def models(self) -> np.ndarray:
        """θ + τ of every term, (T, n); the target's numbers where a tensor has fewer rows."""
        out = self.work.matrix("terms", len(self._pieces), self.size, self.dtype)
        for row, piece in enumerate(self._pieces):
            self._fill(piece, "model", out[row])
        return out

    def delta(self, term: int) -> np.ndarray:
        """τ of one term, (n,)."""
        out = self.work.array("term", self.size, self.dtype)
        self._fill(self._pieces[term], "delta", out)
        return out

    def model(self, term: int) -> np.ndarray:
        """θ + τ of one term, (n,)."""
        out = self.work.array("term", self.size, self.dtype)
        self._fill(self._pieces[term], "model", out)
        return out

    def base(self) -> np.ndarray:
        """The foundation's numbers, (n,)."""
        piece = next(piece for piece in self._pieces if piece is not None)
        covered = max(0, min(piece.count, self.hi) - self.lo)
        out = self.work.array("foundation", self.size, self.dtype)
        if covered:
            out[:covered] = self.work.base(piece.base, self.lo, self.lo + covered, self.dtype)
        if covered < self.size:
            self._rest(out, covered)
        return out

    def raw_differences(self) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """Target (n,), foundation (n,) and fine-tunes (K, n) as stored BF16 numbers (uint16).

        None unless all of them are plain BF16 tensors of full length: the common case, for which
        methods have a fused loop.
        """
        pieces = self.plain_pieces()
        if pieces is None:
            return None
        base = pieces[0].base
        tensors = [base, *(piece.tuned for piece in pieces)]
        if self._target is not base:
            tensors.append(self._target)
        stored = self.work.matrix("stored", len(tensors), self.size, np.uint16)
        read_together(tensors, self.lo, self.hi, stored)
        onto = stored[0] if self._target is base else stored[-1]
        return onto, stored[0], stored[1 : len(pieces) + 1]

    def raw_product(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, float] | None:
        """Target (n,) as stored BF16 numbers, and left, right and scale of the one LoRA on it.

        None unless exactly one term changes the tensor, and is a product of full length.
        """
        product = self.product()
        if product is None:
            return None
        stored = self.raw_target()
        return (stored, *product) if stored is not None else None

    def product(self) -> tuple[np.ndarray, np.ndarray, float] | None:
        """Left, right and scale of the one LoRA on the tensor, all of whose numbers are finite.

        None where it is not just that.
        """
        if self.dtype != np.float32 or len(self.terms) != 1:
            return None
        piece = self._pieces[self.terms[0]]
        if not isinstance(piece, Product) or piece.count < self.hi:
            return None
        if not self.work.finite_factors(piece, self.dtype):
            return None
        return (*self.work.factors(piece, self.dtype), piece.low_rank.scale)

    @property
    def plain(self) -> bool:
        """Whether ``raw_differences`` will give numbers."""
        return self.plain_pieces() is not None

    def plain_pieces(self) -> list[Difference] | None:
        """The terms' pieces, in order, where ``raw_differences`` can give their numbers."""
        if self.dtype != np.float32 or self._target.dtype != "BF16" or not self.terms:
            return None
        found: list[Difference] = []
        for term in self.terms:
            piece = self._pieces[term]
            if (
                not isinstance(piece, Difference)
                or (found and piece.base is not found[0].base)
                or piece.tuned.dtype != "BF16"
                or piece.base.dtype != "BF16"
                or piece.count < self.hi
            ):
                return None
            found.append(piece)
        return found

    def raw_models(self) -> np.ndarray | None:
        """The models of every term, (T, n), as stored BF16 numbers; None unless all are."""
        if self.dtype != np.float32 or not self._pieces:
            return None
        tensors = []
        for piece in self._pieces:
            if isinstance(piece, Difference):
                tensors.append(piece.tuned)
            elif isinstance(piece, Untouched):
                tensors.append(piece.base)
            else:
                return None
            if tensors[-1].dtype != "BF16" or piece.count < self.hi:
                return None
        models = self.work.matrix("stored", len(tensors), self.size, np.uint16)
        read_together(tensors, self.lo, self.hi, models)
        return models

    def raw_target(self) -> np.ndarray | None:
        """The target as stored BF16 numbers (uint16), or None where it is of another type."""
        if self._target.dtype != "BF16":
            return None
        return self.work.raw(self._target, self.lo, self.hi, "target stored")

    def _fill(self, piece: Piece | None, what: str, out: np.ndarray) -> None:
        covered = 0
        if piece is not None:
            covered = max(0, min(piece.count, self.hi) - self.lo)
            if covered:
                fill = piece.delta if what == "delta" else piece.model
                fill(self.lo, self.lo + covered, out[:covered], self.work)
        if covered < out.size:
            if what == "delta":
                out[covered:] = 0
            else:
                self._rest(out, covered)

    def _rest(self, out: np.ndarray, covered: int) -> None:
        self.work.read(self._target, self.lo + covered, self.hi, out[covered:], "target raw")


def touched(pieces: Sequence[Piece | None]) -> list[int]:
    """The numbers of the terms that change a tensor, in recipe order."""
    return [
        index
        for index, piece in enumerate(pieces)
        if piece is not None and not isinstance(piece, Untouched)
    ]
