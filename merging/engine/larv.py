"""LARV: a recipe whose vectors are scaled layer by layer, from their numbers and the foundation's.

Wang et al., "LARV: Data-Free Layer-wise Adaptive Rescaling Veneer for Model Merging" (arXiv
2602.09413); formula and caveats in ``merging.engine.spectral.larv``. It is no method but a veneer
on any: the scales become the weight schedule of each term, so the recipe says what was done and
anybody can change it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from .align import PlannedTensor
from .errors import RecipeError, _
from .recipe import WEIGHT, Recipe, make_recipe
from .run import Equipment
from .settings import stack_of
from .spectral.larv import larv_scales, layer_summary
from .whole import Whole
from .workspace import Workspace


def with_larv(equipment: Equipment, span: float = 0.5) -> Recipe:
    """The recipe of ``equipment`` with a LARV scale (1 − span … 1 + span) for every layer.

    Decomposes every matrix of the foundation's layers and of each vector: minutes for a large
    model. Tensors outside the layers keep their weight. Raises RecipeError where a term has a
    schedule of its own, or the method takes no weights.
    """
    recipe = equipment.recipe
    method = equipment.combination.method
    if not method.weighted:
        raise RecipeError(
            _("The method %(method)s finds the weights itself, so LARV cannot scale them."),
            method=method.name,
        )
    terms = []
    for at, term in enumerate(recipe.terms):
        if WEIGHT.name in term.parameters:
            raise RecipeError(
                _("%(label)s has a weight of its own for each layer, so LARV cannot set it."),
                label=equipment.terms[at].label,
            )
        schedule = _schedule(equipment.plan, at, float(term.coefficient), span)
        terms.append((term.ref, 1, {**term.parameters, WEIGHT.name: schedule}))
    made = make_recipe(
        foundation=recipe.foundation,
        target=recipe.target,
        terms=terms,
        method=recipe.method,
        parameters=recipe.parameters,
        out_dtype=recipe.out_dtype,
        rules=recipe.rules,
        seed=recipe.seed,
    )
    return replace(made, slices=recipe.slices)


def _schedule(plan: Sequence[PlannedTensor], term: int, weight: float, span: float) -> object:
    """The weight of one term for every tensor: a gradient for each stack of layers."""
    stacks: dict[str, dict[int, list[PlannedTensor]]] = {}
    for tensor in plan:
        found = stack_of(tensor.name)
        if found is not None:
            stacks.setdefault(found[0], {}).setdefault(found[1], []).append(tensor)
    parts: list[dict[str, object]] = []
    for stack, layers in stacks.items():
        count = max(layers) + 1
        summaries = [
            layer_summary(_matrices(layers.get(layer, []), term)) for layer in range(count)
        ]
        scales = larv_scales(summaries, span=span)
        if (scales == 1).all():  # nothing to tell apart
            continue
        parts.append({"filter": stack, "value": [weight * float(scale) for scale in scales]})
    return [*parts, {"value": weight}]


def _matrices(
    tensors: Sequence[PlannedTensor], term: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(foundation, update) of the matrices of one layer that the term changes."""
    for tensor in tensors:
        if not tensor.pieces or len(tensor.shape) < 2:
            continue
        whole = Whole(tensor.source, tensor.pieces, np.float32, Workspace())
        if term in whole.terms:
            yield whole.base(), whole.delta(term)
