"""The lecture's single neuron: three weights, two fine-tunes, and whether their merge works.

A neuron without a bias gives y = w · x. Two makers tune it, each for one question x; the merge
works when both questions still get the answers they got from their makers' models. The numbers
are computed by the engine, as any model's are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

import numpy as np

from merging.engine.align import TermSource
from merging.engine.recipe import make_recipe
from merging.engine.run import equip, stream
from vectors.tensorfile.checkpoint import Checkpoint
from vectors.tensorfile.header import write_header
from vectors.tensorfile.source import MemorySource

Weights = tuple[float, float, float]
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Maker:
    """Somebody's vector τ, and the question x whose answer it is for."""

    name: str
    vector: Weights
    question: Weights


@dataclass(frozen=True)
class Example:
    """A foundation and two makers."""

    key: str
    foundation: Weights
    makers: tuple[Maker, Maker]


THETA: Weights = (1.0, 1.0, 1.0)
EXAMPLES = {
    example.key: example
    for example in (
        # Each changes few weights, and different ones; the other's question does not see them.
        Example(
            "works",
            THETA,
            (
                Maker("A", vector=(2.0, 0.0, 0.0), question=(1.0, 0.0, 0.0)),
                Maker("B", vector=(0.0, 0.0, -3.0), question=(0.0, 1.0, 1.0)),
            ),
        ),
        # Each changes all of them, so that each disturbs the other's answer.
        Example(
            "fails",
            THETA,
            (
                Maker("A", vector=(2.0, -1.0, 1.0), question=(1.0, 0.0, 1.0)),
                Maker("B", vector=(-1.0, 2.0, -3.0), question=(1.0, 1.0, 0.0)),
            ),
        ),
    )
}


@dataclass(frozen=True)
class Answer:
    """One question: what the foundation, the maker's own model and the merge answer."""

    maker: Maker
    before: float
    own: float
    merged: float

    @property
    def kept(self) -> bool:
        """Whether the merge answers as the maker's model does."""
        return abs(self.merged - self.own) < TOLERANCE


@dataclass(frozen=True)
class Result:
    """The merged weights and the answers to both questions."""

    weights: Weights
    answers: tuple[Answer, ...]

    @property
    def works(self) -> bool:
        """The lecture's definition of success."""
        return all(answer.kept for answer in self.answers)


def merge_neuron(example: Example, coefficients: Sequence[Decimal]) -> Result:
    """Merge the makers' vectors with these coefficients. Raises RecipeError for absurd ones."""
    base = _checkpoint(example.foundation)
    terms = [
        TermSource(maker.name, maker.name, "delta", _checkpoint(maker.vector))
        for maker in example.makers
    ]
    recipe = make_recipe(
        foundation="neuron",
        target="neuron",
        terms=[(m.name, c) for m, c in zip(example.makers, coefficients, strict=True)],
    )
    used = {term.ref for term in recipe.terms}
    equipment = equip(
        recipe, target=base, foundation=base, terms=[term for term in terms if term.ref in used]
    )
    (file,) = equipment.model.files.values()
    data = b"".join(stream(file))[-12:]
    merged = tuple(float(value) for value in np.frombuffer(data, "<f4"))
    return Result(
        merged,  # type: ignore[arg-type]
        tuple(_answer(example, maker, merged) for maker in example.makers),
    )


def _answer(example: Example, maker: Maker, merged: Sequence[float]) -> Answer:
    own = [a + b for a, b in zip(example.foundation, maker.vector, strict=True)]
    return Answer(
        maker,
        before=_dot(example.foundation, maker.question),
        own=_dot(own, maker.question),
        merged=_dot(merged, maker.question),
    )


def _dot(weights: Sequence[float], question: Sequence[float]) -> float:
    return sum(w * x for w, x in zip(weights, question, strict=True))


def _checkpoint(weights: Weights) -> Checkpoint:
    header = write_header([("neuron.weight", "F32", (3,))])
    data = header + np.array(weights, "<f4").tobytes()
    return Checkpoint.open({"model.safetensors": MemorySource(data, "model.safetensors")})
