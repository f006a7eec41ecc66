"""What the methods on a sphere share: sums whose coefficients come from inner products alone.

Slerp, the means on a sphere and Model Stock all end in Σ cᵢ xᵢ, where the cᵢ are functions of the
norms of the xᵢ and the angles between them. ``prepare`` finds the coefficients in float64 from one
reading of the tensor; the sum is then elementwise, in the compute dtype, in the order of the terms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from merging.engine.block import Block
from merging.engine.gram import Along, row_length
from merging.engine.kernels import add_scaled, sum_differences_bf16, sum_models_bf16

from .base import Arguments

Read = Callable[[], np.ndarray]
PRECISION = 40  # bits of a coefficient: libraries of sines differ in the last of 53


@dataclass(frozen=True)
class Coefficients:
    """What each part of a sum is multiplied with.

    ``values`` is (K, m), float64: each number of a part serves ``repeat`` elements in a row, and
    after m of them the first comes again. So m = 1 is a number for the whole tensor, ``repeat`` = 1
    is a number for each column.
    """

    values: np.ndarray
    repeat: int

    @property
    def uniform(self) -> bool:
        """Whether each part has one number for the whole tensor."""
        return self.values.shape[1] == 1

    @property
    def parts(self) -> list[int]:
        """The parts whose number is not zero everywhere."""
        return [int(part) for part in np.flatnonzero((self.values != 0).any(axis=1))]

    @property
    def only(self) -> int | None:
        """The part that the sum is, where its number is 1 and the others are 0."""
        parts = self.parts
        return parts[0] if len(parts) == 1 and (self.values[parts[0]] == 1).all() else None

    def of(self, part: int, lo: int, hi: int, dtype: np.dtype) -> np.ndarray:
        """The numbers for elements ``[lo, hi)``, (n,)."""
        row = self.values[part]
        if self.repeat == 1:
            return np.resize(np.roll(row, -(lo % row.size)).astype(dtype), hi - lo)
        first, last = lo // self.repeat, -(-hi // self.repeat)
        start = first * self.repeat
        return np.repeat(row[first:last].astype(dtype), self.repeat)[lo - start : hi - start]


def coefficients(values: np.ndarray, shape: tuple[int, ...], along: Along = "all") -> Coefficients:
    """``values`` (m, K), as the inner products ``along`` gave them, for a tensor of ``shape``."""
    mantissa, exponent = np.frexp(np.asarray(values, np.float64))
    settled = np.ldexp(np.rint(np.ldexp(mantissa, PRECISION)), exponent - PRECISION)
    repeat = {"rows": row_length(shape), "columns": 1, "all": 0}[along]
    return Coefficients(np.ascontiguousarray(settled.T), repeat)


def arc(cosine: np.ndarray, t: float, linear: np.ndarray) -> np.ndarray:
    """Weights of both ends at the share ``t`` of the arc between them, (m, 2).

    ``cosine`` (m,) is of the angle; where ``linear`` the straight line is taken instead.
    """
    theta = np.arccos(np.where(linear, 0.0, np.clip(cosine, -1, 1)))
    whole = np.sin(theta)
    first = np.where(linear, 1 - t, np.sin((1 - t) * theta) / whole)
    second = np.where(linear, t, np.sin(t * theta) / whole)
    return np.stack([first, second], axis=1)


def ends(t: float) -> np.ndarray | None:
    """Weights of both ends, (1, 2), where ``t`` is one of them: no angle changes that."""
    return np.array([[1 - t, t]]) if t in (0, 1) else None


def sum_of_parts(block: Block, found: Coefficients, read: Sequence[Read]) -> np.ndarray:
    """Σ cᵢ xᵢ of one block (n,), in order; ``read[i]()`` gives xᵢ and may share its memory.

    A sum that is one of its parts is that part, bit for bit.
    """
    if found.only is not None:
        return read[found.only]()
    total = block.scratch("sum")
    total.fill(0)
    return _add_parts(total, block, found, read)


def sum_of_models(block: Block, arguments: Arguments) -> np.ndarray:
    """Σ cᵢ θᵢ of one block (n,), with the coefficients of every term from ``arguments.state``."""
    read = [partial(block.model, term) for term in range(len(arguments.weights))]
    return sum_of_parts(block, arguments.state, read)


def sum_of_deltas(block: Block, arguments: Arguments) -> np.ndarray:
    """Σ cᵢ τᵢ of one block (n,), with the coefficients of every term from ``arguments.state``."""
    found: Coefficients = arguments.state
    total = block.scratch("sum")
    total.fill(0 if found.parts else -0.0)  # x + (−0) is x, whatever the sign of a zero
    read = [partial(block.delta, term) for term in range(len(arguments.weights))]
    return _add_parts(total, block, found, read)


def _add_parts(
    total: np.ndarray, block: Block, found: Coefficients, read: Sequence[Read]
) -> np.ndarray:
    for part in found.parts:
        numbers = read[part]()
        if found.uniform:
            add_scaled(total, float(found.values[part, 0]), numbers)
        else:
            numbers *= found.of(part, block.lo, block.hi, numbers.dtype)
            total += numbers
    return total


def fused_deltas(block: Block, arguments: Arguments, out: np.ndarray) -> bool:
    """The same as ``sum_of_deltas`` for plain BF16 tensors, the target added and rounded."""
    found: Coefficients = arguments.state
    parts = [part for part in found.parts if part in block.terms]
    raw = block.raw_differences() if found.uniform and parts else None
    if raw is None:
        return False
    target, base, tuned = raw
    if len(parts) < len(tuned):
        tuned = tuned[[block.terms.index(part) for part in parts]]
    weights = found.values[parts, 0].astype(np.float32)
    sum_differences_bf16(target, base, tuned, weights, 1, 1, out.view(np.uint16))
    return True


def fused_models(block: Block, arguments: Arguments, out: np.ndarray) -> bool:
    """The same as ``sum_of_models`` for plain BF16 tensors, rounded."""
    models = block.raw_models() if arguments.state.uniform else None
    return models is not None and sum_stored(models, arguments.state, out)


def sum_stored(models: np.ndarray, found: Coefficients, out: np.ndarray) -> bool:
    """Write the rounded sum of ``models`` (K, n; BF16 as uint16) to ``out``; True."""
    stored = out.view(np.uint16)
    parts = found.parts
    if found.only is not None:
        stored[:] = models[found.only]
        return True
    if len(parts) < len(models):
        models = models[parts]
    sum_models_bf16(models, found.values[parts, 0].astype(np.float32), 1, stored)
    return True
