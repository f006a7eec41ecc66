"""Cutting a matrix down to a few of its directions: the truncated SVD, and what it leaves behind.

The best rank-r approximation of a matrix keeps its r largest singular values (Eckart and Young,
1936), and what it misses is the root of the sum of squares of the others. A product of thin
factors is cut exactly from the factors. A small matrix is cut by LAPACK, a large one by a
randomised range finder (Halko, Martinsson and Tropp, 2011, algorithms 4.4 and 5.1) with power
iterations and random numbers of its own name; there the error is measured, on the factors as they
are written.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import RecipeError, _
from .spectral.linalg import one_thread, qr, svd

LARGEST_EXACT = 1024  # the shorter side up to which LAPACK takes the whole matrix
OVERSAMPLING = 16
POWER_ITERATIONS = 4
FIRST_WIDTH = 64
MEASURED_ELEMENTS = 2**20  # of the residual, at a time


@dataclass(frozen=True)
class Budget:
    """How much of each matrix is kept: at most ``rank`` directions, or as many as ``energy`` asks.

    ``energy`` is a share of the squared Frobenius norm. With both, whichever is fewer.
    """

    rank: int | None = None
    energy: float | None = None

    def __post_init__(self) -> None:
        if self.rank is None and self.energy is None:
            raise RecipeError(_("Say how much to keep: a rank, such as 16, or an energy, as 0.99."))
        if self.rank is not None and self.rank < 1:
            raise RecipeError(
                _("A LoRA of rank %(rank)d holds nothing: use 1 or more."), rank=self.rank
            )
        if self.energy is not None and not 0 < self.energy <= 1:
            raise RecipeError(
                _("The energy to keep is a share above 0 and up to 1, not %(energy)s."),
                energy=self.energy,
            )


@dataclass(frozen=True)
class Cut:
    """What is kept of one matrix: left (rows, r) · right (r, columns), both float32.

    ``square`` is the squared Frobenius norm of the matrix, ``lost`` that of the rest; ``full`` is
    the largest rank it could have.
    """

    left: np.ndarray
    right: np.ndarray
    square: float
    lost: float
    full: int

    @property
    def rank(self) -> int:
        """Directions kept."""
        return self.left.shape[1]

    def factors(self) -> tuple[np.ndarray, np.ndarray]:
        """Left and right."""
        return self.left, self.right


@one_thread
def cut_product(left: np.ndarray, right: np.ndarray, budget: Budget) -> Cut:
    """Cut left (rows, R) · right (R, columns), float64, without ever forming the product.

    QR of both, and the SVD of the small core between them. ``lost`` is exact: the singular values
    left out.
    """
    Q_left, R_left = qr(left)
    Q_right, R_right = qr(right.T)
    U, s, Vt = svd(R_left @ R_right.T)
    squares = s.astype(np.float64) ** 2
    rank = _rank(squares, float(squares.sum()), budget)
    root = np.sqrt(s[:rank])
    return Cut(
        (Q_left @ (U[:, :rank] * root)).astype(np.float32),
        ((root[:, None] * Vt[:rank]) @ Q_right.T).astype(np.float32),
        float(squares.sum()),
        float(squares[rank:].sum()),
        min(left.shape[0], right.shape[1]),
    )


@one_thread
def cut_matrix(matrix: np.ndarray, budget: Budget, name: str = "") -> Cut:
    """Cut ``matrix`` (rows, columns), float32 or float64, and measure what is lost.

    ``name`` addresses the random numbers: the same matrix is always cut alike.
    """
    full = min(matrix.shape)
    square = _square(matrix)
    if full <= LARGEST_EXACT:
        U, s, Vt = svd(matrix.astype(np.float64))
        rank = _rank(s**2, square, budget)
    else:
        U, s, Vt, rank = _randomised(matrix, square, budget, name)
    root = np.sqrt(s[:rank])
    left = (U[:, :rank] * root).astype(np.float32)
    right = (root[:, None] * Vt[:rank]).astype(np.float32)
    return Cut(left, right, square, _lost(matrix, left, right), full)


def _rank(squares: np.ndarray, total: float, budget: Budget) -> int:
    """How many of the squared singular values (falling) the budget keeps: at least one."""
    rank = min(budget.rank or len(squares), len(squares))
    if budget.energy is not None:
        kept = np.cumsum(squares)
        # At energy 1 nothing may be missing but what rounding swallows.
        enough = int(np.searchsorted(kept, budget.energy * min(total, kept[-1]))) + 1
        rank = min(rank, enough)
    return max(rank, 1)


def _randomised(
    matrix: np.ndarray, square: float, budget: Budget, name: str
) -> tuple[Any, Any, Any, int]:
    """U, s, Vᵀ of the leading directions, and how many the budget keeps."""
    full = min(matrix.shape)
    width = budget.rank or FIRST_WIDTH
    if budget.energy is not None:
        width = min(width, FIRST_WIDTH)
    while True:
        if 2 * (width + OVERSAMPLING) > full:
            U, s, Vt = svd(matrix)
            return U, s, Vt, _rank(s.astype(np.float64) ** 2, square, budget)
        U, s, Vt = _leading(matrix, width + OVERSAMPLING, name)
        squares = s[:width].astype(np.float64) ** 2
        enough = budget.energy is None or squares.sum() >= budget.energy * square
        if enough or width == budget.rank:
            # The extra directions only sharpen the others; they are not kept.
            return U[:, :width], s[:width], Vt[:width], _within(squares, square, budget)
        width = min(2 * width, budget.rank or full)


def _within(squares: np.ndarray, total: float, budget: Budget) -> int:
    if budget.energy is None:
        return len(squares)
    enough = np.flatnonzero(np.cumsum(squares) >= budget.energy * total)
    return int(enough[0]) + 1 if enough.size else len(squares)


def _leading(matrix: np.ndarray, width: int, name: str) -> tuple[Any, Any, Any]:
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "little")
    draw = np.random.Generator(np.random.Philox(key=seed))
    start = draw.standard_normal((matrix.shape[1], width), dtype=np.float32)
    Q, _R = qr(matrix @ start.astype(matrix.dtype))
    for _turn in range(POWER_ITERATIONS):
        P, _R = qr(matrix.T @ Q)
        Q, _R = qr(matrix @ P)
    U, s, Vt = svd(Q.T @ matrix)
    return Q @ U, s, Vt


def _runs(matrix: np.ndarray) -> range:
    return range(0, matrix.shape[0], max(1, MEASURED_ELEMENTS // max(matrix.shape[1], 1)))


def _square(matrix: np.ndarray) -> float:
    """‖matrix‖²_F, in float64."""
    step = _runs(matrix).step
    return float(
        sum(np.square(matrix[lo : lo + step].astype(np.float64)).sum() for lo in _runs(matrix))
    )


def _lost(matrix: np.ndarray, left: np.ndarray, right: np.ndarray) -> float:
    """‖matrix − left · right‖²_F, in float64, a run of rows at a time."""
    step = _runs(matrix).step
    wide = right.astype(np.float64)
    total = 0.0
    for lo in _runs(matrix):
        rest = matrix[lo : lo + step] - left[lo : lo + step].astype(np.float64) @ wide
        total += float(np.square(rest).sum())
    return total
