"""Where a sum acts, layer by layer: the forecast's strip beside the exact figures of demo vectors.

The bars are those that ``docs/forecast.md`` states.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from safetensors.numpy import load_file

from marketplace.management.commands.seed_demo import DEMO, folder_of, read_catalogue
from merging.engine.forecast import Base, Forecast, Item, forecast
from tests.demo.test_sketches import Delta, formed
from vectors.tensorfile.names import layer_of
from vectors.tensorfile.sketch import Sketcher
from vectors.tensorfile.sketch_format import Sketch

pytestmark = pytest.mark.slow

LAYER_WITHIN = 0.04  # of what the terms have in the layer, each by itself
WHOLE_WITHIN = 0.01  # the same, of all layers together
SIGNS = ((1.0, 1.0), (1.0, -1.0), (0.5, 0.5), (1.0, -0.5))


def sketched(delta: Delta) -> Sketch:
    sketcher = Sketcher("demo")
    for name, values in delta.items():
        if values.any():
            sampler = sketcher.begin(name, values.size)
            sampler.block(0, values.astype(np.float64))
            sketcher.end(sampler)
    return sketcher.finish()


def squares_of(delta: Delta, layers: Sequence[str]) -> np.ndarray:
    """‖τ‖² of each layer, from every entry."""
    sums = dict.fromkeys(layers, 0.0)
    for name, values in delta.items():
        sums[layer_of(name)[1]] += float(np.square(values, dtype=np.float64).sum())
    return np.array(list(sums.values()))


def summed(terms: Sequence[tuple[float, Delta]]) -> Delta:
    total: Delta = {}
    for coefficient, delta in terms:
        for name, values in delta.items():
            total[name] = total.get(name, 0.0) + coefficient * values.astype(np.float64)
    return total


def check(found: Forecast, terms: Sequence[tuple[float, Delta]], what: str) -> None:
    exact = squares_of(summed(terms), found.layers)
    parts = sum(c**2 * squares_of(delta, found.layers) for c, delta in terms)
    off = np.abs(np.sqrt(found.squares) - np.sqrt(exact))
    assert (off <= LAYER_WITHIN * np.sqrt(parts)).all(), what
    whole = abs(np.sqrt(found.squares.sum()) - np.sqrt(exact.sum()))
    assert whole <= WHOLE_WITHIN * np.sqrt(np.sum(parts)), what
    theta = np.sqrt(found.sizes)
    shown = [row["ratio"] for row in found.strip]
    assert shown == pytest.approx(np.sqrt(found.squares) / theta, abs=1e-6)


CATALOGUE = read_catalogue()


@pytest.mark.parametrize("foundation", CATALOGUE["foundations"], ids=lambda each: str(each["id"]))
def test_strips_of_all_demo_pairs_are_within_the_stated_error(foundation: dict[str, str]) -> None:
    (file,) = folder_of(foundation).glob("*.safetensors")
    weights = load_file(file)
    numbers = {name: v for name, v in weights.items() if v.dtype.kind == "f"}
    squares = {name: float(np.square(v, dtype=np.float64).sum()) for name, v in numbers.items()}
    base = Base(squares, sum(v.size for v in numbers.values()))
    deltas = {
        each["id"]: {n: v for n, v in formed(DEMO / each["path"], weights).items() if n in squares}
        for each in CATALOGUE["vectors"]
        if each["foundation"] == foundation["id"]
    }
    sketches = {name: sketched(delta) for name, delta in deltas.items()}
    pairs = [(pair, c) for pair in itertools.combinations(deltas, 2) for c in SIGNS]
    for names, coefficients in [*pairs, (tuple(deltas), (0.4,) * len(deltas))]:
        chosen = list(zip(names, coefficients, strict=True))
        found = forecast([Item(name, "full", sketches[name], c) for name, c in chosen], base)
        check(found, [(c, deltas[name]) for name, c in chosen], f"{coefficients} of {names}")
