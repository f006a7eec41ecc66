"""Does a model belong to a foundation? Fine-tunes point the way their foundation points.

Two checkpoints of one architecture that were trained from different beginnings have numbers that
are not correlated at all; a fine-tune moves a number by a small part of itself. A few blocks of a
few matrices tell the two apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from vectors.tensorfile.checkpoint import Checkpoint, Tensor
from vectors.tensorfile.dtypes import DTYPES
from vectors.tensorfile.names import VOCABULARY, match_names
from vectors.tensorfile.numbers import widen

from .errors import MergeError, _

MATRICES = 4
BLOCKS = 4  # of each matrix, evenly spread
BLOCK = 16_384
SMALLEST = 0.1  # unrelated checkpoints are below 0.02, fine-tunes above 0.9
FEWEST = 200  # numbers that say anything


def check_related(
    foundation: Checkpoint,
    model: Checkpoint,
    label: str,
    base: str,
    renamed: Callable[[str, str], str] | None = None,
) -> None:
    """Raise MergeError where ``model`` was clearly not trained from ``foundation``.

    Nothing is said where too few matrices have the same name and shape. ``renamed(name, model)``
    is the name that the recipe's rules give a tensor.
    """
    if renamed is None:
        found = kinship(foundation, model)
    else:
        goals = {renamed(name, base): name for name in foundation.tensors}
        named = {name: renamed(name, label) for name in model.tensors}
        found = kinship(
            foundation, model, {n: goals[goal] for n, goal in named.items() if goal in goals}
        )
    if found is not None and found < SMALLEST:
        raise MergeError(
            _(
                "%(label)s does not come from %(base)s: their numbers have nothing in common "
                "(cosine %(cosine).2f; a fine-tune has over 0.9). Name the model it was trained "
                "from, or insist with --unrelated."
            ),
            label=label,
            base=base,
            cosine=found,
        )


def kinship(
    foundation: Checkpoint, model: Checkpoint, names: Mapping[str, str] | None = None
) -> float | None:
    """Cosine of both models' numbers on a sample, None where there is too little to compare.

    ``names`` says which tensor of the model is which of the foundation, where they are not alike.
    """
    if names is None:
        names, _prefix = match_names(model.tensors, foundation.tensors)
    pairs = [
        (foundation.tensors[goal], model.tensors[name])
        for name, goal in names.items()
        if _comparable(foundation.tensors[goal], model.tensors[name])
    ]
    pairs.sort(key=lambda pair: (-pair[0].count, pair[0].name))
    largest = [pair for pair in pairs if pair[0].count * 4 >= pairs[0][0].count]
    step = max(1, len(largest) // MATRICES)
    dot = left = right = 0.0
    count = 0
    for base, tuned in largest[::step][:MATRICES]:
        for at in _starts(base.count):
            run = min(BLOCK, base.count - at)
            first, second = _numbers(base, at, run), _numbers(tuned, at, run)
            dot += _product(first, second)
            left += _product(first, first)
            right += _product(second, second)
            count += run
    if count < FEWEST or not np.isfinite(left * right) or left * right == 0:
        return None
    return float(dot / np.sqrt(left * right))


def _product(first: np.ndarray, second: np.ndarray) -> float:
    # Not BLAS, which shares out even this among threads that then spin, waiting for more.
    return float(np.einsum("i,i->", first, second))


def _comparable(base: Tensor, tuned: Tensor) -> bool:
    return (
        len(base.shape) == 2
        and base.shape == tuned.shape
        and DTYPES[base.dtype].mergeable
        and DTYPES[tuned.dtype].mergeable
        and not VOCABULARY.search(base.name)
    )


def _starts(count: int) -> list[int]:
    if count <= BLOCK * BLOCKS:
        return list(range(0, count, BLOCK))
    return [(count - BLOCK) * number // (BLOCKS - 1) for number in range(BLOCKS)]


def _numbers(tensor: Tensor, at: int, count: int) -> np.ndarray:
    size = DTYPES[tensor.dtype].size
    raw = np.empty(count * size, np.uint8)
    tensor.read_into(at * size, memoryview(raw))
    return widen(raw, tensor.dtype, np.empty(count, np.float64))
