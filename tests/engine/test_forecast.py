"""The forecast: its figures against whole vectors, its advice and warnings against the evidence."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from merging.engine.advice import (
    MANY_ADDED,
    MANY_RANGE,
    TSV_LAMBDA,
    TSV_RANGE,
    Advice,
    advise,
    notes,
)
from merging.engine.forecast import Base, Forecast, Item, _possible, forecast
from merging.engine.methods import get_method
from vectors.tensorfile.sketch import Sketcher
from vectors.tensorfile.sketch_format import Sketch

Delta = dict[str, np.ndarray]
SIZES = {"embed.weight": 3000, "layers.0.w": 2000, "layers.1.w": 2000, "layers.1.b": 20, "norm": 9}
THETA = 40.0
BASE = Base({name: size * THETA**2 / sum(SIZES.values()) for name, size in SIZES.items()}, 10**8)


def delta_of(seed: int, only: Sequence[str] = tuple(SIZES)) -> Delta:
    generator = np.random.default_rng(seed)
    return {name: 0.01 * generator.standard_normal(SIZES[name]) for name in only}


def mixed(*parts: tuple[float, Delta]) -> Delta:
    return {name: sum(c * delta[name] for c, delta in parts) for name in parts[0][1]}  # type: ignore[misc]


def sketched(delta: Delta) -> Sketch:
    sketcher = Sketcher("θ")
    for name, values in delta.items():
        sampler = sketcher.begin(name, values.size)
        sampler.block(0, values)
        sketcher.end(sampler)
    return sketcher.finish()


def of(
    *terms: tuple[float, Delta], form: str = "full", base: Base = BASE, target: Delta | None = None
) -> Forecast:
    items = [Item(f"v{i}", form, sketched(delta), c) for i, (c, delta) in enumerate(terms)]
    onto = Item("target", "full", sketched(target)) if target else None
    return forecast(items, base, onto)


def advised(found: Forecast) -> Advice:
    advice = advise(found)
    assert advice is not None
    return advice


def codes(found: Forecast) -> dict[str, tuple[int, ...]]:
    return {note.code: note.terms for note in notes(found)}


A, B, C, D, E = (delta_of(seed) for seed in range(5))


@given(
    st.lists(
        st.tuples(
            st.integers(0, 5),
            st.lists(st.sampled_from(sorted(SIZES)), min_size=1, unique=True),
            st.floats(-3, 3).filter(lambda c: abs(c) > 1e-3),
        ),
        min_size=1,
        max_size=4,
    )
)
@settings(max_examples=40, deadline=None)
def test_the_size_of_the_sum_is_that_of_the_whole_vectors(
    terms: list[tuple[int, list[str], float]],
) -> None:
    deltas = [(c, delta_of(seed, only)) for seed, only, c in terms]
    found = of(*deltas)
    square = 0.0
    for name, size in SIZES.items():
        total = sum((c * d.get(name, np.zeros(size)) for c, d in deltas), np.zeros(size))
        square += float(total @ total)
    largest = max(abs(c) * found.norm(i) for i, (c, _delta) in enumerate(deltas))
    # The cosines are exact here but for float16: the error is that of the terms, not of the sum.
    assert found.ratio * THETA == pytest.approx(math.sqrt(square), abs=0.03 * largest)
    for (_c, delta), strip in zip(deltas, found.strips, strict=True):
        assert [row["label"] for row in strip] == ["embed", "0", "1", "norm"]
        norms = {row["label"]: row["norm"] for row in strip}
        expected = math.sqrt(
            sum(float(delta[n] @ delta[n]) for n in ("layers.1.w", "layers.1.b") if n in delta)
        )
        assert norms["1"] == pytest.approx(expected, abs=2e-6)
        assert sum(row["share"] for row in strip) == pytest.approx(1, abs=1e-5)
    assert [row["label"] for row in found.strip] == list(found.layers)
    whole = sum(row["norm"] ** 2 for row in found.strip)
    assert whole == pytest.approx((found.ratio * THETA) ** 2, rel=1e-3, abs=1e-8)


def test_the_strip_of_a_sum_says_where_it_adds_up_and_where_it_cancels() -> None:
    turned = {name: value * (-1 if name.startswith("layers.1") else 1) for name, value in A.items()}
    found, alone = of((0.5, A), (0.5, turned)), of((1, A))
    ratios = {row["label"]: row["ratio"] for row in found.strip}
    one = {row["label"]: row["ratio"] for row in alone.strip}
    assert ratios.pop("1") == 0
    assert ratios == pytest.approx({label: one[label] for label in ratios}, abs=1e-6)
    assert alone.strip == alone.strips[0]
    assert of((0, A)).strip[0]["ratio"] == 0
    assert of().strip == ()
    (gram,) = of((1, A), (1, turned)).grams[list(found.layers).index("1")][:1].tolist()
    assert gram[1] == pytest.approx(-gram[0])


def test_estimates_that_no_vectors_can_have_are_moved() -> None:
    impossible = np.array([[1, 0.9, -0.9], [0.9, 1, 0.9], [-0.9, 0.9, 1]])
    moved = _possible(impossible)
    assert np.linalg.eigvalsh(impossible)[0] < -0.5
    assert np.linalg.eigvalsh(moved)[0] > -1e-12
    assert np.diag(moved) == pytest.approx(1)
    possible = np.array([[1, 0.9, 0], [0.9, 1, 0], [0, 0, 1]])
    both = _possible(np.array([impossible, possible]))
    assert both == pytest.approx(np.array([moved, possible]))


def test_pairs_say_where_they_disagree_and_include_the_target() -> None:
    turned = {name: value * (-1 if name.startswith("layers.1") else 1) for name, value in A.items()}
    found = of((1, A), (1, turned), target=B)
    assert [(pair.a, pair.b) for pair in found.pairs] == [(-1, 0), (-1, 1), (0, 1)]
    assert found.pairs[-1].layers == pytest.approx((1, 1, -1, 1))
    part = of((1, A), (1, delta_of(1, ["norm"])))
    assert part.pairs[0].layers[:3] == (None, None, None)


def test_one_vector_is_put_on_whole_and_subtracted_whole() -> None:
    assert advise(of()) is None
    assert (advised(of((0.3, A))).coefficients, advised(of((-2, A))).coefficients) == ((1,), (-1,))


def test_two_or_three_vectors_are_added_at_one() -> None:
    advice = advised(of((0.2, A), (0.2, B), (0.2, C), form="lora"))
    assert (advice.method, advice.coefficients) == ("task_arithmetic", (1, 1, 1))


@pytest.mark.parametrize(
    ("form", "parameters", "sign", "method", "size"),
    [
        ("full", 10**8, 1, "tsv", 1.0),
        ("delta", 10**8, 1, "tsv", 1.0),
        ("lora", 10**8, 1, "task_arithmetic", MANY_ADDED),
        ("full", 7 * 10**9, 1, "task_arithmetic", MANY_ADDED),
        ("full", 10**8, -1, "task_arithmetic", MANY_ADDED),
    ],
)
def test_four_vectors_are_advised_by_size_and_form(
    form: str, parameters: int, sign: int, method: str, size: float
) -> None:
    base = Base(BASE.squares, parameters)
    advice = advised(of((1, A), (1, B), (1, C), (sign, D), form=form, base=base))
    assert advice.method == method
    assert advice.coefficients == (size, size, size, sign * size)
    assert advice.lambda_ == (TSV_LAMBDA if method == "tsv" else 1)


def test_the_methods_declare_what_is_suggested() -> None:
    low, default, high = get_method("tsv").suggested or (0, 0, 0)
    assert (default, (low, high)) == (TSV_LAMBDA, TSV_RANGE)
    low, _default, high = get_method("task_arithmetic").suggested or (0, 0, 0)
    assert low <= MANY_RANGE[0] < MANY_ADDED < MANY_RANGE[1] <= high


def test_what_is_there_twice_is_averaged_and_relatives_get_a_half() -> None:
    twins = [mixed((1, A), (0.2, each)) for each in (B, C, D)]
    advice = advised(of(*((1, twin) for twin in twins), (1, E)))
    assert advice.coefficients == (0.33, 0.33, 0.33, 1)
    relatives = advised(of((1, A), (1, mixed((0.3, A), (1, B))), (1, C)))
    assert relatives.coefficients == (0.5, 0.5, 1)
    assert {note.code for note in relatives.reasons} == {"few", "related"}


def test_an_analogy_begins_with_half_of_the_difference() -> None:
    related = mixed((0.3, A), (1, B))
    analogy = advised(of((1, C), (1, related), (-1, A)))
    assert analogy.coefficients == (1, 0.5, -0.5)
    assert "analogy" in {note.code for note in analogy.reasons}
    assert advised(of((1, related), (-1, A), target=C)).coefficients == (0.5, -0.5)
    assert advised(of((1, related), (-1, A))).coefficients == (1, -1)


@pytest.mark.parametrize(
    ("coefficient", "other", "code", "warning"),
    [
        (1, mixed((-1.0, A), (0.5, B)), "contradiction", True),
        (-1, mixed((-1.0, A), (0.5, B)), "reinforces", False),
        (1, mixed((1.0, A), (0.2, B)), "duplicate", True),
        (-1, mixed((1.0, A), (0.2, B)), "takes_away", False),
        (-1, mixed((0.3, A), (1.0, B)), "takes_away", False),
        (1, mixed((0.3, A), (1.0, B)), None, False),
        (1, B, None, False),
        (-1, B, None, False),
    ],
)
def test_a_pair_is_judged_by_the_signs_it_is_used_with(
    coefficient: float, other: Delta, code: str | None, warning: bool
) -> None:
    said = {note.code: note for note in notes(of((1, A), (coefficient, other)))}
    assert set(said) == ({code} if code else set())
    if code:
        assert said[code].warning is warning
        assert said[code].terms == (0, 1)
    onto = notes(of((coefficient, other), target=A))
    assert [(note.code, note.terms) for note in onto] == ([(code, (-1, 0))] if code else [])


def test_sizes_that_do_not_go_together_are_told() -> None:
    assert codes(of((1, A), (0.1, B))) == {"dominant": (0, 1)}
    assert codes(of((1, A), (0.3, B))) == {}
    assert codes(of((20, A))) == {"large": ()}
    assert codes(of((-1.5, A))) == {"reversed": (0,)}
    few = {name: value * (np.arange(value.size) % 3 == 0) for name, value in A.items()}
    assert codes(of((0.5, few))) == {"few_changed": (0,)}
    assert codes(of((1, few))) == codes(of((0.5, few), form="delta")) == {}


def test_a_vector_without_a_sketch_is_left_out_of_the_figures() -> None:
    items = [Item("a", "full", sketched(A)), Item("b", "full", None), Item("c", "full", None)]
    found = forecast(items, BASE)
    assert [(note.code, note.terms) for note in notes(found)] == [
        ("unknown", (1,)),
        ("unknown", (2,)),
    ]
    assert found.pairs == ()
    assert found.gram[0, 0] > 0
    assert not found.gram[1:].any()
    assert found.strips[1] == ()
    assert found.strip == found.strips[0]
    assert forecast(items[1:], BASE).strip == ()
    assert advised(found).coefficients == (1, 1, 1)


def test_every_sentence_can_be_filled() -> None:
    every = [
        of((c, A), (d, mixed((x, A), (y, B))), (1, C), (1, D), form=form)
        for c, d, (x, y), form in itertools.product(
            (1, -2), (1, 0.01), ((1, 0.1), (0.3, 1), (-1, 0.1)), ("full", "lora")
        )
    ]
    for found in every:
        for note in (*notes(found), *advised(found).reasons):
            assert "%(" not in note.template % note.params
        for pair in found.pairs:
            template, params = pair.likeness.sentence
            assert "%(" not in template % params
