"""What can be said of a recipe before it is computed: sizes, places, conflicts. Not its quality.

The inner products of all terms (the Gram matrix G, from sketches and exact norms) say how large
the plain sum Δ = Σ cᵢτᵢ is for every choice of coefficients: ‖Δ‖² = cᵀGc. The matrix is handed
out, so that a slider needs nobody to ask. It is the sum of one such matrix a layer, which say where
the sum acts: what the vectors agree on adds up, what they disagree on cancels, layer by layer.
Methods that trim or turn the vectors change the model by less than that, or elsewhere.

Everything here is figures; the sentences about them are in ``merging.engine.advice``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vectors.tensorfile.likeness import Likeness, compare
from vectors.tensorfile.names import layer_of
from vectors.tensorfile.sketch_format import Sketch

Strip = tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Item:
    """A vector of the recipe-to-be, or its target. ``sketch`` is None where none is made yet."""

    label: str
    form: str
    sketch: Sketch | None
    coefficient: float = 1.0


@dataclass(frozen=True)
class Base:
    """What is known of the foundation: Σθ² of each tensor, and how many parameters it has."""

    squares: Mapping[str, float]
    parameters: int

    @property
    def norm(self) -> float:
        """‖θ‖."""
        return math.sqrt(sum(self.squares.values()))


@dataclass(frozen=True)
class Pair:
    """Terms ``a`` and ``b`` (numbers of the recipe's terms; ``a`` is -1 for the target).

    ``layers`` are the cosines layer by layer, None where one of the two changes nothing.
    ``products`` are the inner products they come from.
    """

    a: int
    b: int
    likeness: Likeness
    layers: tuple[float | None, ...]
    products: np.ndarray


_Known = tuple[int, Sketch, np.ndarray]  # a term's number, its sketch, ‖τ‖² of each layer


@dataclass(frozen=True)
class Forecast:
    """``layers`` are the labels that every strip follows, ``sizes`` Σθ² of each of them.

    ``grams`` (layers, terms, terms) are the inner products within each layer, ``gram`` those of
    whole terms: zeros for unknown ones.
    """

    items: tuple[Item, ...]
    target: Item | None
    base: Base
    layers: tuple[str, ...]
    sizes: np.ndarray
    strips: tuple[Strip, ...]
    pairs: tuple[Pair, ...]
    grams: np.ndarray

    @property
    def gram(self) -> np.ndarray:
        """Inner products of the terms."""
        return self.grams.sum(axis=0)

    @property
    def squares(self) -> np.ndarray:
        """‖Δ‖² of each layer, of the plain sum with the items' own coefficients."""
        coefficients = np.array([item.coefficient for item in self.items])
        return np.maximum(np.einsum("a,lab,b->l", coefficients, self.grams, coefficients), 0)

    @property
    def ratio(self) -> float:
        """‖Δ‖/‖θ‖ of that sum."""
        return math.sqrt(self.squares.sum()) / self.base.norm if self.base.norm else 0.0

    @property
    def strip(self) -> Strip:
        """That sum layer by layer; empty while no term is known."""
        known = any(item.sketch is not None for item in self.items)
        return _strip(self.layers, self.squares, self.sizes) if known else ()

    def norm(self, number: int) -> float:
        """‖τ‖ of a term."""
        return math.sqrt(float(self.gram[number, number]))


def forecast(items: Sequence[Item], base: Base, target: Item | None = None) -> Forecast:
    """The forecast of ``items`` on the foundation, or on ``target``, a fine-tune of it."""
    where, labels = _layers(base)
    everyone = [(number, item) for number, item in enumerate(items)]
    if target is not None:
        everyone.insert(0, (-1, target))
    known = [(number, item.sketch) for number, item in everyone if item.sketch is not None]
    squares = {
        number: _by_layer(zip(sketch.names, sketch.squares.tolist(), strict=True), where, labels)
        for number, sketch in known
    }
    pairs = [
        _pair(
            (a, one, squares[a]),
            (b, other, squares[b]),
            lambda products: _by_layer(products.items(), where, labels),
        )
        for at, (a, one) in enumerate(known)
        for b, other in known[at + 1 :]
    ]
    sizes = _by_layer(base.squares.items(), where, labels)
    return Forecast(
        items=tuple(items),
        target=target,
        base=base,
        layers=tuple(labels),
        sizes=sizes,
        strips=tuple(
            _strip(labels, squares[number], sizes) if number in squares else ()
            for number in range(len(items))
        ),
        pairs=tuple(pairs),
        grams=_grams(len(items), squares, pairs, len(labels)),
    )


def _layers(base: Base) -> tuple[dict[str, int], list[str]]:
    """The layer of each tensor, by number, and the layers' labels, in the model's order."""
    found = {name: layer_of(name) for name in base.squares}
    labels = list(dict.fromkeys(label for _order, label in sorted(found.values())))
    numbers = {label: number for number, label in enumerate(labels)}
    return {name: numbers[label] for name, (_order, label) in found.items()}, labels


def _by_layer(
    values: Iterable[tuple[str, float]], where: Mapping[str, int], labels: Sequence[str]
) -> np.ndarray:
    """Sums of the layers' tensors; what the foundation has not belongs to none."""
    sums = np.zeros(len(labels))
    for name, value in values:
        if name in where:
            sums[where[name]] += value
    return sums


def _strip(labels: Sequence[str], squares: np.ndarray, sizes: np.ndarray) -> Strip:
    """‖τ‖, ‖τ‖/‖θ‖ and the share of ‖τ‖² of each layer, as the inspection has them."""
    total = float(squares.sum()) or 1.0
    return tuple(
        {
            "label": label,
            "norm": round(math.sqrt(delta), 6),
            "ratio": round(math.sqrt(delta / theta), 6) if theta else 0.0,
            "share": round(delta / total, 6),
        }
        for label, delta, theta in zip(labels, squares.tolist(), sizes.tolist(), strict=True)
    )


def _pair(one: _Known, other: _Known, by_layer: Callable[..., np.ndarray]) -> Pair:
    a, first, ours = one
    b, second, theirs = other
    likeness = compare(first, second)
    products, lengths = by_layer(likeness.products), np.sqrt(ours * theirs)
    cosines = tuple(
        round(product / length, 4) if length else None
        for product, length in zip(products.tolist(), lengths.tolist(), strict=True)
    )
    return Pair(a, b, likeness, cosines, products)


def _grams(
    many: int, squares: Mapping[int, np.ndarray], pairs: Sequence[Pair], layers: int
) -> np.ndarray:
    """Inner products of the terms layer by layer: exact norms, estimated cosines, and no negative
    squares."""
    norms, cosines = np.zeros((layers, many)), np.zeros((layers, many, many))
    cosines[:] = np.eye(many)
    for number, found in squares.items():
        if number >= 0:
            norms[:, number] = np.sqrt(found)
    for pair in pairs:
        if pair.a >= 0:
            lengths = norms[:, pair.a] * norms[:, pair.b]
            found = np.divide(pair.products, lengths, out=np.zeros(layers), where=lengths > 0)
            cosines[:, pair.a, pair.b] = cosines[:, pair.b, pair.a] = found
    return _possible(cosines) * norms[:, :, None] * norms[:, None, :]


def _possible(cosines: np.ndarray) -> np.ndarray:
    """The nearest cosines that vectors can have: estimates alone may make a square negative."""
    if not cosines.size:
        return cosines
    values, directions = np.linalg.eigh(cosines)
    moved = (directions * np.maximum(values, 0)[..., None, :]) @ np.swapaxes(directions, -1, -2)
    lengths = np.sqrt(np.diagonal(moved, axis1=-2, axis2=-1))
    moved /= lengths[..., :, None] * lengths[..., None, :]
    return np.where(values[..., :1, None] >= 0, cosines, moved)
