"""A block: a run of elements of one output tensor, and what each term contributes to it.

Everything here is about elements ``[lo, hi)`` of the flattened tensor. Blocks are small enough to
stay in the processor's second-level cache, and their scratch is reused, so the memory of a merge
is a few blocks, whatever the size of the model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from vectors.tensorfile.checkpoint import Tensor
from vectors.tensorfile.lora import LowRank
from vectors.tensorfile.numbers import widen

from .kernels import low_rank_rows, subtract

BLOCK_ELEMENTS = 64 * 1024


class Workspace:
    """Reusable buffers of one thread."""

    def __init__(self) -> None:
        self._arrays: dict[tuple[str, Any], np.ndarray] = {}
        self._factors: dict[int, tuple[object, np.ndarray, np.ndarray]] = {}

    def array(self, name: str, count: int, dtype: Any) -> np.ndarray:
        """A 1-D array of ``count`` elements; its content is whatever was left there."""
        held = self._arrays.get((name, dtype))
        if held is None or held.size < count:
            held = np.empty(max(count, BLOCK_ELEMENTS), dtype)
            self._arrays[name, dtype] = held
        return held[:count]

    def read(self, tensor: Tensor, lo: int, hi: int, out: np.ndarray, name: str) -> np.ndarray:
        """Elements ``[lo, hi)`` of ``tensor`` as numbers, into ``out``."""
        size = tensor.nbytes // max(tensor.count, 1)
        raw = self.array(name, (hi - lo) * size, np.uint8)
        tensor.read_into(lo * size, memoryview(raw))
        return widen(raw, tensor.dtype, out)

    def factors(self, piece: Product, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
        """Left (rows, r) and right (r, columns) of a low-rank piece, kept while it is in use."""
        held = self._factors.get(id(piece))
        if held is None or held[0] is not piece or held[1].dtype != dtype:
            left, right = piece.load(dtype)
            self._factors[id(piece)] = held = (piece, left, right)
        return held[1], held[2]

    def forget_factors(self) -> None:
        """Drop loaded factors: the merge moved on to another tensor."""
        self._factors.clear()


class Piece(Protocol):
    """One term's part in one tensor: its delta covers the first ``count`` elements."""

    @property
    def count(self) -> int:
        """How many leading elements the delta covers."""
        ...

    def delta(self, lo: int, hi: int, out: np.ndarray, work: Workspace) -> None:
        """Write τ[lo:hi] to ``out``."""

    def model(self, lo: int, hi: int, out: np.ndarray, work: Workspace) -> None:
        """Write (θ + τ)[lo:hi] to ``out``."""


@dataclass(frozen=True, eq=False)
class Difference:
    """τ = fine-tuned − foundation, both read from their checkpoints."""

    tuned: Tensor
    base: Tensor
    count: int

    def delta(self, lo: int, hi: int, out: np.ndarray, work: Workspace) -> None:
        base = work.array("base", hi - lo, out.dtype)
        work.read(self.base, lo, hi, base, "base raw")
        work.read(self.tuned, lo, hi, out, "term raw")
        subtract(out, base)

    def model(self, lo: int, hi: int, out: np.ndarray, work: Workspace) -> None:
        work.read(self.tuned, lo, hi, out, "term raw")


@dataclass(frozen=True, eq=False)
class Stored:
    """τ as it lies in the file of a ``delta``."""

    values: Tensor
    base: Tensor
    count: int

    def delta(self, lo: int, hi: int, out: np.ndarray, work: Workspace) -> None:
        work.read(self.values, lo, hi, out, "term raw")

    def model(self, lo: int, hi: int, out: np.ndarray, work: Workspace) -> None:
        base = work.array("base", hi - lo, out.dtype)
        work.read(self.base, lo, hi, base, "base raw")
        self.delta(lo, hi, out, work)
        np.add(base, out, out=out)


@dataclass(frozen=True, eq=False)
class Untouched:
    """A term that leaves this tensor as the foundation has it: τ = 0."""

    base: Tensor
    count: int

    def delta(self, lo: int, hi: int, out: np.ndarray, work: Workspace) -> None:
        out.fill(0)

    def model(self, lo: int, hi: int, out: np.ndarray, work: Workspace) -> None:
        work.read(self.base, lo, hi, out, "term raw")


@dataclass(frozen=True, eq=False)
class Product:
    """τ = scale · left · right, computed row by row where it is needed."""

    low_rank: LowRank
    base: Tensor
    count: int

    def load(self, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
        """Both factors as (rows, r) and (r, columns) in ``dtype``."""
        rank = self.low_rank.rank
        left = _load_matrix(self.low_rank.left, dtype)
        right = _load_matrix(self.low_rank.right, dtype)
        if self.low_rank.transposed:
            return np.ascontiguousarray(left.reshape(rank, -1).T), np.ascontiguousarray(
                right.reshape(-1, rank).T
            )
        return left.reshape(-1, rank), right.reshape(rank, -1)

    def delta(self, lo: int, hi: int, out: np.ndarray, work: Workspace) -> None:
        left, right = work.factors(self, out.dtype.type)
        columns = right.shape[1]
        first, last = lo // columns, math.ceil(hi / columns)
        rows = work.array("rows", (last - first) * columns, out.dtype.type)
        low_rank_rows(
            rows.reshape(last - first, columns), left[first:last], right, self.low_rank.scale
        )
        out[:] = rows[lo - first * columns : hi - first * columns]

    def model(self, lo: int, hi: int, out: np.ndarray, work: Workspace) -> None:
        base = work.array("base", hi - lo, out.dtype)
        work.read(self.base, lo, hi, base, "base raw")
        self.delta(lo, hi, out, work)
        np.add(base, out, out=out)


def _load_matrix(tensor: Tensor, dtype: Any) -> np.ndarray:
    raw = np.empty(tensor.nbytes, np.uint8)
    tensor.read_into(0, memoryview(raw))
    return widen(raw, tensor.dtype, np.empty(tensor.count, dtype))


class Block:
    """What a method sees: the target's numbers and each term's delta (or model), one at a time.

    Arrays handed out are scratch: the method may overwrite them, and the next call may too.
    """

    def __init__(
        self,
        target: Tensor,
        pieces: Sequence[Piece | None],
        lo: int,
        hi: int,
        dtype: Any,
        work: Workspace,
    ) -> None:
        self._target = target
        self._pieces = pieces
        self._lo, self._hi, self._dtype, self._work = lo, hi, dtype, work

    def scratch(self, name: str) -> np.ndarray:
        """An array of the block's length for intermediate results."""
        return self._work.array(f"method {name}", self._hi - self._lo, self._dtype)

    def target(self) -> np.ndarray:
        """The target's numbers."""
        out = self._work.array("target", self._hi - self._lo, self._dtype)
        return self._work.read(self._target, self._lo, self._hi, out, "target raw")

    def terms(self, weights: Sequence[float]) -> Iterator[tuple[int, float]]:
        """(term, weight) of the terms that change this tensor, in recipe order."""
        for index, piece in enumerate(self._pieces):
            if piece is not None and not isinstance(piece, Untouched):
                yield index, weights[index]

    def all_terms(self, weights: Sequence[float]) -> Iterator[tuple[int, float]]:
        """(term, weight) of every term, in recipe order."""
        yield from enumerate(weights)

    def delta(self, term: int) -> np.ndarray:
        """τ of ``term``; zero where its tensor has fewer rows than the target's."""
        return self._fill(term, "delta")

    def model(self, term: int) -> np.ndarray:
        """θ + τ of ``term``; the target's numbers where its tensor has fewer rows."""
        return self._fill(term, "model")

    def _fill(self, term: int, what: str) -> np.ndarray:
        piece = self._pieces[term]
        out = self._work.array("term", self._hi - self._lo, self._dtype)
        covered = 0
        if piece is not None:
            covered = max(0, min(piece.count, self._hi) - self._lo)
            if covered:
                fill = piece.delta if what == "delta" else piece.model
                fill(self._lo, self._lo + covered, out[:covered], self._work)
        if covered < out.size:
            if what == "delta":
                out[covered:] = 0
            else:
                self._work.read(
                    self._target, self._lo + covered, self._hi, out[covered:], "target raw"
                )
        return out
