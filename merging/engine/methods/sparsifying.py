"""What the sparsifying methods share: their parameters, and the sum of what each term keeps.

In every one of them a term is trimmed (each method by its own rule), weighted, and summed, either
plainly or with an elected sign. ``arguments.state`` is the `Trim` that the method prepared, unless
the method says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from merging.engine.block import Block
from merging.engine.direct import write_trimmed
from merging.engine.norms import l1_norms
from merging.engine.randomness import key_of
from merging.engine.ranking_stored import HeldMasks, write_ranked
from merging.engine.sparsify import NO_MASKS, Masks, Trim, trimmed_sum, trimmed_sum_bf16
from merging.engine.whole import Whole

from .base import Arguments, Parameter
from .shared import divisor

if TYPE_CHECKING:
    from merging.engine.align import PlannedTensor
    from merging.engine.workspace import Workspace

DENSITY = Parameter(
    "density", float, 1.0, "Share of its entries that a vector keeps.",
    minimum=0, maximum=1, scope="term",
)  # fmt: skip


def normalize(default: bool) -> Parameter:
    """The parameter ``normalize`` with the default of one method."""
    text = "Divide by the sum of the coefficients (with elected signs: of those that agree)."
    return Parameter("normalize", bool, default, text)


def rescale(default: bool) -> Parameter:
    """The parameter ``rescale`` with the default of one method."""
    text = "Enlarge what is kept until the vector has its L1 norm back."
    return Parameter("rescale", bool, default, text)


def own(arguments: Arguments, terms: list[int], name: str) -> list[Any]:
    """The parameter ``name`` of each of ``terms``."""
    return [arguments.terms[term][name] for term in terms]


def keys(arguments: Arguments, terms: list[int]) -> list[int]:
    """The keys of the draws of ``terms`` for this tensor."""
    return [key_of(arguments.seed, arguments.keys[term], arguments.tensor) for term in terms]


def rescaled(whole: Whole, arguments: Arguments, trim: Trim) -> Trim:
    """``trim`` with its scales, where ``rescale`` asks for them. Reads the tensor once."""
    if not arguments.values["rescale"]:
        return trim
    densities = np.array(own(arguments, whole.terms, "density"))
    if np.all(densities >= 1):
        return trim
    scaled = trim.rescaled(l1_norms(whole, trim))
    # A vector that keeps everything keeps its last bit too.
    scaled.scales[densities >= 1] = 1
    return scaled


def _weights(block: Block, arguments: Arguments) -> np.ndarray:
    return np.array([arguments.weights[term] for term in block.terms], block.dtype)


def sum_terms(
    block: Block, arguments: Arguments, trim: Trim, elect: bool, masks: Masks = NO_MASKS
) -> np.ndarray:
    """The merged update (n,) of one block: trimmed, weighted, summed, divided."""
    total = trimmed_sum(
        block.deltas(),
        block.lo,
        trim,
        _weights(block, arguments),
        elect=elect,
        normalize=arguments.values["normalize"],
        out=block.scratch("sum"),
        masks=masks,
    )
    by = 1.0 if elect else divisor(arguments)
    if by != 1:
        total /= total.dtype.type(by)
    return total


def sum_terms_bf16(
    block: Block,
    arguments: Arguments,
    trim: Trim,
    elect: bool,
    out: np.ndarray,
    masks: Masks = NO_MASKS,
) -> bool:
    """The same for plain BF16 tensors, in one loop, put on the target; False: it is not plain."""
    raw = block.raw_differences()
    if raw is None:
        return False
    trimmed_sum_bf16(
        raw,
        block.lo,
        trim,
        _weights(block, arguments),
        elect=elect,
        normalize=arguments.values["normalize"],
        divisor=1.0 if elect else divisor(arguments),
        factor=arguments.values["lambda"],
        out=out.view(np.uint16),
        masks=masks,
    )
    return True


def write_terms(
    tensor: PlannedTensor,
    arguments: Arguments,
    trim: Trim,
    elect: bool,
    span: tuple[int, int],
    goal: tuple[int, int],
    work: Workspace,
    held: HeldMasks | None = None,
) -> bool:
    """The same, of local files, written at once: what ``trim`` keeps, or what ``held`` do."""
    block = Block(tensor.source, tensor.pieces, *span, np.float32, work)
    pieces = block.plain_pieces()
    if pieces is None:
        return False
    of_tensor = (tensor.source, pieces[0].base, [piece.tuned for piece in pieces], trim)
    of_merge: dict[str, Any] = {
        "elect": elect,
        "normalize": arguments.values["normalize"],
        "divisor": 1.0 if elect else divisor(arguments),
        "factor": arguments.values["lambda"],
        "span": span,
        "goal": goal,
        "work": work,
    }
    weights = _weights(block, arguments)
    if held is not None:
        return write_ranked(*of_tensor, held, weights, **of_merge)
    return write_trimmed(*of_tensor, weights, **of_merge)


def combined(elect: bool) -> Callable[[Block, Arguments], np.ndarray]:
    """The ``combine`` of a method that elects signs, or does not."""
    return lambda block, arguments: sum_terms(block, arguments, arguments.state, elect)


def fused(elect: bool) -> Callable[[Block, Arguments, np.ndarray], bool]:
    """The ``fused`` of a method that elects signs, or does not."""
    return lambda block, arguments, out: sum_terms_bf16(
        block, arguments, arguments.state, elect, out
    )


def direct(
    elect: bool,
) -> Callable[[PlannedTensor, Arguments, tuple[int, int], tuple[int, int], Workspace], bool]:
    """The ``direct`` of a method that elects signs, or does not."""
    return lambda tensor, arguments, span, goal, work: write_terms(
        tensor, arguments, arguments.state, elect, span, goal, work
    )
