"""Task arithmetic: target + λ · Σ wᵢ τᵢ.

Ilharco et al., "Editing Models with Task Arithmetic", ICLR 2023 (arXiv 2212.04089). A positive
weight learns, a negative one forgets; τ_C + τ_B − τ_A is an analogy. With ``normalize`` the sum is
divided by Σ wᵢ, as mergekit does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from merging.engine.block import Block
from merging.engine.direct import write_product, write_sum
from merging.engine.kernels import add_scaled, finish_low_rank_bf16, sum_differences_bf16

from .base import Arguments, Method, Parameter, normalized
from .shared import INT8_MASK, LAMBDA, divisor

if TYPE_CHECKING:
    from merging.engine.align import PlannedTensor
    from merging.engine.workspace import Workspace


def combine(block: Block, arguments: Arguments) -> np.ndarray:
    """Σ wᵢ τᵢ of one block (n,), in order, then the division."""
    total = block.scratch("sum")
    total.fill(0)
    for term in block.terms:
        add_scaled(total, arguments.weights[term], block.delta(term))
    by = divisor(arguments)
    if by != 1:
        total /= total.dtype.type(by)
    return total


def fused(block: Block, arguments: Arguments, out: np.ndarray) -> bool:
    """The same for plain BF16 tensors, in one loop, with the target added and rounded."""
    raw = block.raw_differences()
    if raw is None:
        return _fused_product(block, arguments, out)
    target, base, tuned = raw
    weights = np.array([arguments.weights[term] for term in block.terms], np.float32)
    factor = arguments.values["lambda"]
    sum_differences_bf16(
        target, base, tuned, weights, divisor(arguments), factor, out.view(np.uint16)
    )
    return True


def _fused_product(block: Block, arguments: Arguments, out: np.ndarray) -> bool:
    product = block.raw_product() if divisor(arguments) == 1 else None
    if product is None:
        return False
    target, left, right, scale = product
    weight = arguments.weights[block.terms[0]]
    factor = arguments.values["lambda"]
    finish_low_rank_bf16(target, left, right, scale, weight, factor, block.lo, out.view(np.uint16))
    return True


def direct(
    tensor: PlannedTensor,
    arguments: Arguments,
    span: tuple[int, int],
    goal: tuple[int, int],
    work: Workspace,
) -> bool:
    """The same, of local files, written at once."""
    block = Block(tensor.source, tensor.pieces, *span, np.float32, work)
    factor, by = arguments.values["lambda"], divisor(arguments)
    pieces = block.plain_pieces()
    if pieces is not None:
        weights = np.array([arguments.weights[term] for term in block.terms], np.float32)
        tuned = [piece.tuned for piece in pieces]
        return write_sum(
            tensor.source, pieces[0].base, tuned, weights, by, factor, span, goal, work
        )
    product = block.product()
    if product is None or by != 1:
        return False
    weight = arguments.weights[block.terms[0]]
    return write_product(tensor.source, *product, weight, factor, span, goal, work)


def _linear_weights(weights: Sequence[Fraction], values: Mapping[str, Any]) -> list[Fraction]:
    factor = Fraction(str(values["lambda"]))
    return [factor * weight for weight in normalized(weights, values)]


TASK_ARITHMETIC = Method(
    name="task_arithmetic",
    title="Task arithmetic",
    formula="θ + λ · Σ wᵢ τᵢ",
    help="Adds the vectors, each times its coefficient. The plain, dependable choice.",
    source="arXiv 2212.04089",
    operates_on="deltas",
    parameters=(
        LAMBDA,
        Parameter("normalize", bool, False, "Divide the sum by the sum of the coefficients."),
        INT8_MASK,
    ),
    combine=combine,
    fused=fused,
    direct=direct,
    linear_weights=_linear_weights,
    suggested=(0.3, 1.0, 1.0),
)
