"""Any change as one LoRA: each matrix cut to a few directions, and what that loses is said.

A fine-tune of all weights is often nearly of low rank (Hu et al., 2021; mergekit's
``mergekit-extract-lora``). What PEFT has no place for, vectors and vocabulary matrices, is left
out and counted as lost, or, on demand, kept as whole tensors where PEFT can replace the module.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from .adapter_names import (
    Names,
    can_be_kept,
    conv1d_names,
    kept_modules,
    layout_of,
    module_of,
)
from .adapter_out import Lora, Pair, Part, adapter_files
from .cut import Budget, cut_matrix
from .difference import Change
from .errors import RecipeError, _
from .workspace import Workspace


def extracted_lora(
    change: Change,
    budget: Budget,
    *,
    keep_whole: bool = False,
    base: str = "",
    on_tensor: Callable[[str], object] | None = None,
) -> Lora:
    """The change of a recipe cut down to ``budget`` in each of its matrices.

    Computes everything at once; takes the memory of the largest tensor and of the LoRA itself.
    ``keep_whole`` keeps what is no layer (norms, biases, embeddings) as whole tensors, where PEFT
    can; the rest is left out. Raises RecipeError where nothing is left.
    """
    equipment = change.equipment
    names, work = Names(equipment), Workspace()
    transposed = conv1d_names(equipment.target.tensors)
    pairs: list[Pair] = []
    parts: list[Part] = []
    others: dict[str, float] = {}
    for name in change.tensors:
        own = change.own(name)
        layout = layout_of(name, own.shape, transposed)
        if layout is None:
            others[name] = _square(change, name, work)
        else:
            matrix = _matrix(change, name, work)
            cut = cut_matrix(matrix, budget, name)
            if cut.square:
                module = module_of(names.of(name))
                pairs.append(Pair(module, own.shape, cut.rank, layout, cut.factors))
                parts.append(Part(name, cut.rank, cut.full, cut.square, cut.lost))
        if on_tensor:
            on_tensor(name)
    changed = {name: square for name, square in others.items() if square}
    adapted = {pair.module for pair in pairs}
    whole = [name for name in changed if keep_whole and can_be_kept(name, names, adapted)]
    if not pairs and not whole:
        raise RecipeError(
            _(
                "This recipe changes no layer that a LoRA could add to. Take the difference "
                "(delta) or the whole model."
            )
        )
    kept = kept_modules(equipment, names, whole, adapted)
    config, weights = adapter_files(pairs, kept, equipment.combination, names.all(), base=base)
    left_out = {name: square for name, square in changed.items() if name not in whole}
    # What no addition can say has no norm of its own, and is told all the same.
    left_out |= dict.fromkeys(change.left_out, 0.0)
    kept_squares = {name: changed[name] for name in whole}
    return Lora(config, weights, parts, kept_squares, left_out, cut=True)


def _matrix(change: Change, name: str, work: Workspace) -> np.ndarray:
    """The change of one tensor as (rows, columns), in the type it is computed in."""
    own = change.own(name)
    matrix: np.ndarray | None = None
    at = 0
    for block in change.blocks(name, work):
        if matrix is None:
            matrix = np.empty(own.count, block.dtype)
        matrix[at : at + block.size] = block
        at += block.size
    assert matrix is not None
    return matrix.reshape(own.shape[0], math.prod(own.shape[1:]))


def _square(change: Change, name: str, work: Workspace) -> float:
    """‖change‖² of one tensor, in float64."""
    return float(
        sum(np.square(block, dtype=np.float64).sum() for block in change.blocks(name, work))
    )
