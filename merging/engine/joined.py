"""A sum of LoRAs as one LoRA, exactly.

Σ cᵢ Bᵢ Aᵢ = [c₁B₁ c₂B₂ …] · [A₁; A₂; …]: the ranks add up, nothing is lost but one rounding to
float32 of each cᵢBᵢ. Tensors that the adapters bring whole (heads, biases) stay whole tensors:
target + Σ cᵢ τᵢ, the equipped model's own bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from vectors.tensorfile.lora import Adapter

from .adapter_names import Names, kept_modules, module_of
from .adapter_out import Layout, Lora, Pair, Part, adapter_files
from .align import MERGED, PlannedTensor
from .block import touched
from .compute import arguments_of
from .cut import Budget, cut_product
from .errors import RecipeError, _
from .methods import get_method
from .pieces import Product
from .run import Equipment

NO_SUM = 1e-8  # weights that add up to less are not normalised (see methods.shared.divisor)


def is_sum_of_loras(equipment: Equipment) -> bool:
    """Whether every term is a LoRA and the method adds them up."""
    loras = [isinstance(term.content, Adapter) for term in equipment.terms]
    adds = get_method(equipment.recipe.method).linear_weights is not None
    return bool(loras) and all(loras) and adds and not equipment.recipe.slices


def joined_lora(equipment: Equipment, budget: Budget | None = None, *, base: str = "") -> Lora:
    """The recipe's sum of LoRAs as one: exactly, or cut down to ``budget`` with the error stated.

    Without a budget only headers are read. Raises RecipeError where the recipe is no such sum, or
    does what no LoRA can say.
    """
    if not is_sum_of_loras(equipment):
        raise RecipeError(
            _(
                "Only a sum of LoRAs is one LoRA exactly. Say a rank or an energy to cut this "
                "recipe's change down to one."
            )
        )
    pieces, whole = _sorted(equipment)
    if not pieces and not whole:
        raise RecipeError(_("This recipe changes no number of its target: nothing to keep."))
    names = Names(equipment)
    pairs: list[Pair] = []
    parts: list[Part] = []
    for join in pieces:
        module = module_of(names.of(join.tensor.name))
        pair, part = _exact(join, module) if budget is None else _cut(join, module, budget)
        if part.square or budget is None:
            pairs.append(pair)
            parts.append(part)
    kept = kept_modules(equipment, names, whole, {pair.module for pair in pairs})
    config, weights = adapter_files(pairs, kept, equipment.combination, names.all(), base=base)
    return Lora(config, weights, parts, dict.fromkeys(whole, 0.0), {}, cut=budget is not None)


@dataclass(frozen=True)
class _Join:
    """The products that make up the change of one tensor, each with what it is multiplied by."""

    tensor: PlannedTensor
    products: Sequence[tuple[float, Product]]

    @property
    def rank(self) -> int:
        return sum(product.low_rank.rank for _by, product in self.products)

    def factors(self, dtype: type = np.float32) -> tuple[np.ndarray, np.ndarray]:
        """left (rows, rank) · right (rank, columns) is the tensor's change."""
        rows, columns = self.tensor.shape[0], math.prod(self.tensor.shape[1:])
        left, right = np.zeros((rows, self.rank)), np.empty((self.rank, columns))
        at = 0
        for by, product in self.products:
            one, other = product.load(np.float64)
            to = at + product.low_rank.rank
            # A vocabulary may be longer than the adapter's: its last rows get nothing.
            covered = product.count // columns
            left[:covered, at:to] = one[:covered] * (by * product.low_rank.scale)
            right[at:to] = other
            at = to
        return left.astype(dtype), right.astype(dtype)


def _exact(join: _Join, module: str) -> tuple[Pair, Part]:
    tensor = join.tensor
    full = min(tensor.shape[0], math.prod(tensor.shape[1:]))
    pair = Pair(module, tensor.shape, join.rank, _layout(join), join.factors)
    return pair, Part(tensor.name, join.rank, full)


def _cut(join: _Join, module: str, budget: Budget) -> tuple[Pair, Part]:
    tensor = join.tensor
    cut = cut_product(*join.factors(np.float64), budget)
    pair = Pair(module, tensor.shape, cut.rank, _layout(join), cut.factors)
    return pair, Part(tensor.name, cut.rank, cut.full, cut.square, cut.lost)


def _sorted(equipment: Equipment) -> tuple[list[_Join], list[str]]:
    """The matrices that are sums of products, and the tensors that come whole."""
    joins, whole = [], []
    if equipment.report.removed:
        raise _unsayable(equipment.report.removed[0])
    for tensor in equipment.plan:
        own = equipment.target.tensors.get(tensor.name)
        if own is None or own.shape != tensor.shape:
            raise _unsayable(tensor.name)
        if tensor.source is not own:
            whole.append(tensor.name)
            continue
        if tensor.case != MERGED:
            continue
        by = multipliers(equipment, tensor)
        terms = [at for at in touched(tensor.pieces) if by[at] != 0]
        products = [
            (by[at], piece) for at in terms if isinstance(piece := tensor.pieces[at], Product)
        ]
        if len(products) < len(terms):
            whole.append(tensor.name)
        elif products:
            joins.append(_Join(tensor, products))
    return joins, whole


def multipliers(equipment: Equipment, tensor: PlannedTensor) -> list[float]:
    """What τ of each term is multiplied by in ``tensor``: weight, schedule, rules, λ and all.

    Raises RecipeError where a method that averages models does not give target + Σ cᵢ τᵢ.
    """
    method = get_method(equipment.recipe.method)
    assert method.linear_weights is not None
    arguments = arguments_of(method, equipment.recipe, tensor)
    values = dict(arguments.values)
    if abs(sum(arguments.weights)) < NO_SUM:
        values["normalize"] = False  # as the methods do: a sum that vanishes divides nothing
    found = method.linear_weights([Fraction(each) for each in arguments.weights], values)
    if found is None:
        raise _unsayable(tensor.name)
    if method.operates_on == "models":
        bases = {piece.base for piece in tensor.pieces if piece is not None}
        if sum(found) != 1 or bases != {tensor.source}:
            raise _unsayable(tensor.name)
    return [float(each) for each in found]


def _layout(join: _Join) -> Layout:
    found: dict[Layout, None] = {}
    for _by, product in join.products:
        if "lora_embedding_" in product.low_rank.left.name:
            found["embedding"] = None
        else:
            found["transposed" if product.low_rank.transposed else "linear"] = None
    if len(found) > 1:
        raise RecipeError(
            _(
                "`%(tensor)s` is an embedding in one LoRA and a layer in another: one LoRA cannot "
                "be both. Take the difference (delta) or the whole model."
            ),
            tensor=join.tensor.name,
        )
    return next(iter(found))


def _unsayable(tensor: str) -> RecipeError:
    return RecipeError(
        _(
            "What this recipe does to `%(tensor)s` is no sum of LoRAs. Take the difference "
            "(delta) or the whole model."
        ),
        tensor=tensor,
    )
