"""Pieces: one term's part in one output tensor, in each of the forms a vector is stored in."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from vectors.tensorfile.checkpoint import TensorLike
from vectors.tensorfile.lora import LowRank
from vectors.tensorfile.numbers import widen

from .kernels import low_rank_rows, subtract, subtract_bf16
from .workspace import Workspace


class Piece(Protocol):
    """One term's part in one tensor: its delta covers the first ``count`` elements."""

    @property
    def base(self) -> TensorLike:
        """The foundation's tensor."""
        ...

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

    tuned: TensorLike
    base: TensorLike
    count: int

    def delta(self, lo: int, hi: int, out: np.ndarray, work: Workspace) -> None:
        base = work.base(self.base, lo, hi, out.dtype.type)
        if self.tuned.dtype == "BF16" and out.dtype == np.float32:
            subtract_bf16(work.raw(self.tuned, lo, hi, "term stored"), base, out)
        else:
            work.read(self.tuned, lo, hi, out, "term raw")
            subtract(out, base)

    def model(self, lo: int, hi: int, out: np.ndarray, work: Workspace) -> None:
        work.read(self.tuned, lo, hi, out, "term raw")


@dataclass(frozen=True, eq=False)
class Stored:
    """τ as it lies in the file of a ``delta``."""

    values: TensorLike
    base: TensorLike
    count: int

    def delta(self, lo: int, hi: int, out: np.ndarray, work: Workspace) -> None:
        work.read(self.values, lo, hi, out, "term raw")

    def model(self, lo: int, hi: int, out: np.ndarray, work: Workspace) -> None:
        base = work.base(self.base, lo, hi, out.dtype.type)
        self.delta(lo, hi, out, work)
        np.add(base, out, out=out)


@dataclass(frozen=True, eq=False)
class Untouched:
    """A term that leaves this tensor as the foundation has it: τ = 0."""

    base: TensorLike
    count: int

    def delta(self, lo: int, hi: int, out: np.ndarray, work: Workspace) -> None:
        out.fill(0)

    def model(self, lo: int, hi: int, out: np.ndarray, work: Workspace) -> None:
        work.read(self.base, lo, hi, out, "term raw")


@dataclass(frozen=True, eq=False)
class Product:
    """τ = scale · left · right, computed row by row where it is needed."""

    low_rank: LowRank
    base: TensorLike
    count: int

    def load(self, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
        """Both factors as (rows, r) and (r, columns) in ``dtype``."""
        rank = self.low_rank.rank
        left = load_numbers(self.low_rank.left, dtype)
        right = load_numbers(self.low_rank.right, dtype)
        if self.low_rank.transposed:
            return np.ascontiguousarray(left.reshape(rank, -1).T), np.ascontiguousarray(
                right.reshape(-1, rank).T
            )
        return left.reshape(-1, rank), right.reshape(rank, -1)

    def delta(self, lo: int, hi: int, out: np.ndarray, work: Workspace) -> None:
        left, right = work.factors(self, out.dtype.type)
        columns = right.shape[1]
        first, last = lo // columns, math.ceil(hi / columns)
        if lo % columns == 0 and hi % columns == 0:
            goal = out.reshape(last - first, columns)
            low_rank_rows(goal, left[first:last], right, self.low_rank.scale)
            return
        rows = work.array("rows", (last - first) * columns, out.dtype.type)
        low_rank_rows(
            rows.reshape(last - first, columns), left[first:last], right, self.low_rank.scale
        )
        out[:] = rows[lo - first * columns : hi - first * columns]

    def model(self, lo: int, hi: int, out: np.ndarray, work: Workspace) -> None:
        base = work.base(self.base, lo, hi, out.dtype.type)
        self.delta(lo, hi, out, work)
        np.add(base, out, out=out)


def load_numbers(tensor: TensorLike, dtype: Any) -> np.ndarray:
    """All numbers of ``tensor``, 1-D, in ``dtype`` (float32 or float64)."""
    raw = np.empty(tensor.nbytes, np.uint8)
    tensor.read_into(0, memoryview(raw))
    return widen(raw, tensor.dtype, np.empty(tensor.count, dtype))
