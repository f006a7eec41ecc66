"""What can be said of a recipe before it is computed: sizes, places, conflicts. Not its quality.

The inner products of all terms (the Gram matrix G, from sketches and exact norms) say how large
the plain sum Δ = Σ cᵢτᵢ is for every choice of coefficients: ‖Δ‖² = cᵀGc. The matrix is handed
out, so that a slider needs nobody to ask. Methods that trim or turn the vectors change the model
by less than that, or elsewhere.

Everything here is figures; the sentences about them are in ``merging.engine.advice``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vectors.tensorfile.likeness import Likeness, compare
from vectors.tensorfile.names import layer_of
from vectors.tensorfile.sketch_format import Sketch


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
    """

    a: int
    b: int
    likeness: Likeness
    layers: tuple[float | None, ...]


@dataclass(frozen=True)
class Forecast:
    """``layers`` are the labels that every strip follows. ``gram`` has zeros for unknown terms."""

    items: tuple[Item, ...]
    target: Item | None
    base: Base
    layers: tuple[str, ...]
    strips: tuple[tuple[dict[str, Any], ...], ...]
    pairs: tuple[Pair, ...]
    gram: np.ndarray

    @property
    def ratio(self) -> float:
        """‖Δ‖/‖θ‖ of the plain sum with the items' own coefficients."""
        coefficients = np.array([item.coefficient for item in self.items])
        square = float(coefficients @ self.gram @ coefficients)
        return math.sqrt(max(0.0, square)) / self.base.norm if self.base.norm else 0.0

    def norm(self, number: int) -> float:
        """‖τ‖ of a term."""
        return math.sqrt(float(self.gram[number, number]))


def forecast(items: Sequence[Item], base: Base, target: Item | None = None) -> Forecast:
    """The forecast of ``items`` on the foundation, or on ``target``, a fine-tune of it."""
    layers = _layers(base)
    everyone = [(number, item) for number, item in enumerate(items)]
    if target is not None:
        everyone.insert(0, (-1, target))
    known = [(number, item.sketch) for number, item in everyone if item.sketch is not None]
    pairs = [
        _pair(a, one, b, other, layers)
        for at, (a, one) in enumerate(known)
        for b, other in known[at + 1 :]
    ]
    return Forecast(
        items=tuple(items),
        target=target,
        base=base,
        layers=tuple(layers),
        strips=tuple(_strip(item.sketch, base, layers) for item in items),
        pairs=tuple(pairs),
        gram=_gram(items, pairs),
    )


def _layers(base: Base) -> dict[str, list[str]]:
    """Names of tensors by the label of their layer, in the model's order."""
    ordered = sorted((layer_of(name), name) for name in base.squares)
    layers: dict[str, list[str]] = {}
    for (_order, label), name in ordered:
        layers.setdefault(label, []).append(name)
    return layers


def _strip(
    sketch: Sketch | None, base: Base, layers: Mapping[str, Sequence[str]]
) -> tuple[dict[str, Any], ...]:
    """‖τ‖, ‖τ‖/‖θ‖ and the share of ‖τ‖² of each layer, as the inspection has them."""
    if sketch is None:
        return ()
    squares = dict(zip(sketch.names, sketch.squares.tolist(), strict=True))
    total = sum(squares.values()) or 1.0
    strip = []
    for label, names in layers.items():
        delta = sum(squares.get(name, 0.0) for name in names)
        theta = sum(base.squares[name] for name in names)
        strip.append(
            {
                "label": label,
                "norm": round(math.sqrt(delta), 6),
                "ratio": round(math.sqrt(delta / theta), 6) if theta else 0.0,
                "share": round(delta / total, 6),
            }
        )
    return tuple(strip)


def _pair(a: int, one: Sketch, b: int, other: Sketch, layers: Mapping[str, Sequence[str]]) -> Pair:
    likeness = compare(one, other)
    ours, theirs = (
        dict(zip(sketch.names, sketch.squares.tolist(), strict=True)) for sketch in (one, other)
    )
    cosines: list[float | None] = []
    for names in layers.values():
        product = sum(likeness.products.get(name, 0.0) for name in names)
        length = math.sqrt(
            sum(ours.get(name, 0.0) for name in names)
            * sum(theirs.get(name, 0.0) for name in names)
        )
        cosines.append(round(product / length, 4) if length else None)
    return Pair(a, b, likeness, tuple(cosines))


def _gram(items: Sequence[Item], pairs: Sequence[Pair]) -> np.ndarray:
    """Inner products of the terms: exact norms, estimated cosines, and no negative squares."""
    norms = np.array([item.sketch.norm if item.sketch else 0.0 for item in items])
    cosines = np.eye(len(items))
    for pair in pairs:
        if pair.a >= 0:
            cosines[pair.a, pair.b] = cosines[pair.b, pair.a] = pair.likeness.cosine
    return _possible(cosines) * np.outer(norms, norms)


def _possible(cosines: np.ndarray) -> np.ndarray:
    """The nearest cosines that vectors can have: estimates alone may make a square negative."""
    if not len(cosines):
        return cosines
    values, directions = np.linalg.eigh(cosines)
    if values[0] >= 0:
        return cosines
    moved = (directions * np.maximum(values, 0)) @ directions.T
    lengths = np.sqrt(np.diag(moved))
    return moved / np.outer(lengths, lengths)
