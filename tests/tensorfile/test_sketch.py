"""Sketches: places that are shared, counts that are exact, estimates within their error."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.exact import exactly
from vectors.tensorfile.coarse import SCALE_BYTES, CoarseLayout, cosines
from vectors.tensorfile.errors import TensorFileError
from vectors.tensorfile.likeness import FEWEST_LARGE, Verdict, compare
from vectors.tensorfile.sketch import FLOOR, MARKS, VALUES, Sketcher, places_of, tensor_seed
from vectors.tensorfile.sketch_format import Sketch, read_sketch

Delta = dict[str, np.ndarray]


def sketch_of(delta: Delta, *, foundation: str = "θ", block: int = 10**9) -> Sketch:
    sketcher = Sketcher(foundation)
    for name, values in delta.items():
        sampler = sketcher.begin(name, values.size)
        for start in range(0, values.size, block):
            sampler.block(start, values[start : start + block].astype(np.float64))
        sketcher.end(sampler)
    return sketcher.finish()


def gaussian(seed: int, **sizes: int) -> Delta:
    generator = np.random.default_rng(seed)
    return {name: generator.standard_normal(size) * 1e-3 for name, size in sizes.items()}


def mixed(a: Delta, b: Delta, cosine: float) -> Delta:
    return {name: cosine * a[name] + math.sqrt(1 - cosine**2) * b[name] for name in a}


@st.composite
def small_deltas(draw: st.DrawFn) -> Delta:
    """Deltas so small that every entry is sampled; with zeros, ties and numbers of any size."""
    names = draw(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=4, unique=True))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    scale = 10.0 ** draw(st.integers(-9, 2))
    kind = draw(st.sampled_from(("dense", "sparse", "signs")))
    delta = {}
    for name in names:
        values = generator.standard_normal(1 + ord(name) % 7 * 211)
        if kind == "sparse":
            values *= generator.random(values.size) < 0.1
        if kind == "signs":
            values = np.sign(values)
        delta[name] = values * scale
    delta[names[0]][0] = scale  # never all zeros
    return delta


@given(small_deltas(), small_deltas())
@settings(max_examples=60, deadline=None)
def test_where_every_entry_is_sampled_everything_is_exact(a: Delta, b: Delta) -> None:
    found, exact = compare(sketch_of(a), sketch_of(b)), exactly(a, b)
    assert found.cosine == pytest.approx(exact.cosine, abs=2e-3)  # of float16
    assert found.overlap == pytest.approx(exact.overlap, abs=1e-9)
    assert found.shared == pytest.approx(exact.shared, abs=1e-9)
    for ours, theirs in (
        (found.conflict, exact.conflict),
        (found.large_conflict, exact.large_conflict),
    ):
        assert ours == (None if theirs is None else pytest.approx(theirs, abs=1e-9))


@given(small_deltas(), st.integers(1, 700), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_blocks_and_the_order_of_tensors_change_nothing(
    delta: Delta, block: int, shuffler: object
) -> None:
    names = list(delta)
    shuffler.shuffle(names)  # type: ignore[attr-defined]
    shuffled = sketch_of({name: delta[name] for name in names}, block=block)
    # The norms are sums, whose last bits know their order.
    assert shuffled.squares == pytest.approx(sketch_of(delta).squares, rel=1e-12)
    assert (shuffled.large == sketch_of(delta).large).all()
    assert (shuffled.negative == sketch_of(delta).negative).all()
    assert (shuffled.values == sketch_of(delta).values).all()


@given(small_deltas())
@settings(max_examples=40, deadline=None)
def test_the_stored_form_is_the_sketch(delta: Delta) -> None:
    sketch = sketch_of(delta)
    data = sketch.to_bytes()
    again = read_sketch(data)
    assert again.to_bytes() == data
    assert compare(sketch, again).cosine == pytest.approx(1, abs=1e-12)
    assert again.norm == sketch.norm
    assert sum(again.histogram["counts"]) == again.entries_changed
    assert again.histogram == sketch.histogram


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_damaged_bytes_are_refused_with_a_sentence(data: st.DataObject) -> None:
    whole = sketch_of(gaussian(1, a=300)).to_bytes()
    cut = data.draw(st.integers(0, len(whole) - 1))
    at = data.draw(st.integers(0, 15))
    changed = bytes([*whole[:at], whole[at] ^ 0x55, *whole[at + 1 :]])
    for damaged in (whole[:cut], changed, whole + b"\0"):
        with pytest.raises(TensorFileError, match="make_sketches"):
            read_sketch(damaged)


@given(small_deltas())
@settings(max_examples=40, deadline=None)
def test_a_vector_is_its_own_duplicate_and_contradicts_its_negation(delta: Delta) -> None:
    one, other = sketch_of(delta), sketch_of({name: -each for name, each in delta.items()})
    itself, negated = compare(one, one), compare(one, other)
    assert itself.verdict == Verdict.DUPLICATE
    assert (itself.conflict, itself.large_conflict) == (0, 0)
    assert itself.overlap == pytest.approx(1)
    assert negated.verdict == Verdict.CONTRADICTION
    assert (negated.conflict, negated.large_conflict) == (1, 1)
    assert (itself.cosine, negated.cosine) == pytest.approx((1, -1))


def test_all_vectors_of_a_foundation_are_sampled_at_the_same_places() -> None:
    size = 1_000_000
    whole = sketch_of({"w": np.arange(1, size + 1)})
    part = sketch_of({"w": np.arange(1, size + 1), "x": np.ones(700_000)})
    other = sketch_of({"w": np.arange(1, size + 1)}, foundation="another")
    n = int(part.kept[0])
    assert FLOOR < n < whole.kept[0]
    rms = math.sqrt(np.square(np.arange(1.0, size + 1)).mean())
    places, order = places_of(tensor_seed("θ", "w"), size)
    expected = places[np.argsort(order)][: len(whole.values)] + 1
    assert whole.values * rms == pytest.approx(expected, rel=1e-3)
    assert (part.values[:n] == whole.values[:n]).all()
    assert (other.values[:n] == whole.values[:n]).mean() < 0.01


@given(st.integers(0, 2**64 - 1), st.integers(1, 5_000_000))
@settings(max_examples=25, deadline=None)
def test_places_are_one_in_each_stretch(seed: int, count: int) -> None:
    places, order = places_of(seed, count)
    many = min(count, MARKS)
    stretch = np.arange(many + 1) * count // many
    assert ((places >= stretch[:-1]) & (places < stretch[1:])).all()
    assert len(np.unique(order)) == many


@pytest.mark.parametrize("cosine", [-0.4, 0.0, 0.7])
def test_estimates_of_large_vectors_are_within_their_error(cosine: float) -> None:
    sizes = {"embed": 700_000, "layer.0": 400_000, "layer.1": 400_000, "bias": 400}
    a = gaussian(1, **sizes)
    b = mixed(a, gaussian(2, **sizes), cosine)
    found, exact = compare(sketch_of(a), sketch_of(b)), exactly(a, b)
    assert abs(found.cosine - exact.cosine) < 4 / math.sqrt(VALUES)
    assert found.conflict is not None
    assert exact.conflict is not None
    assert abs(found.conflict - exact.conflict) < 4 * 0.5 / math.sqrt(VALUES)
    assert found.large_conflict is not None
    assert exact.large_conflict is not None
    assert found.large_places > FEWEST_LARGE
    error = 0.5 / math.sqrt(found.large_places)
    assert abs(found.large_conflict - exact.large_conflict) < 4 * error
    assert abs(found.overlap - exact.overlap) < 0.01


def test_a_small_tensor_that_holds_most_of_the_change_is_sampled_well() -> None:
    """A classifier's head in a large model: by size alone it would have a handful of places."""
    sizes = {"body": 1_500_000, "head": 60_000}
    a, b = gaussian(1, **sizes), gaussian(2, **sizes)
    for each in (a, b):
        each["head"] *= 60
    found, exact = compare(sketch_of(a), sketch_of(b)), exactly(a, b)
    assert abs(found.cosine - exact.cosine) < 3 * math.sqrt(2 / VALUES)
    assert sketch_of(a).kept[1] > VALUES / 3


def test_the_budget_is_kept_and_untouched_tensors_cost_nothing() -> None:
    many = {f"layer.{i}": 40_000 for i in range(200)}
    delta = gaussian(3, **many)
    whole = sketch_of(delta)
    assert 0.98 * VALUES < whole.kept.sum() <= VALUES
    assert whole.marked.sum() <= MARKS
    assert (whole.kept >= FLOOR).all()
    only = sketch_of({name: each * (name == "layer.7") for name, each in delta.items()})
    assert only.names == ("layer.7",)
    assert only.kept.tolist() == [40_000]


@given(st.integers(1, 6), st.integers(1, 60), st.integers(1, 60), st.booleans())
@settings(max_examples=20, deadline=None)
def test_factors_are_sampled_as_their_product(
    rank: int, rows: int, columns: int, wide: bool
) -> None:
    generator = np.random.default_rng(rank * rows * columns)
    columns = columns * 20_000 if wide and rows < 4 else columns
    left, right = (
        generator.standard_normal((rows, rank)),
        generator.standard_normal((rank, columns)),
    )
    sketcher = Sketcher("θ")
    sampler = sketcher.begin("w", rows * columns)
    sampler.factors(left, right, 0.25)
    sketcher.end(sampler)
    found, formed = sketcher.finish(), sketch_of({"w": (0.25 * (left @ right)).ravel()})
    assert found.norm == pytest.approx(formed.norm)
    assert found.values == pytest.approx(formed.values, rel=2e-3, abs=1e-5)
    assert compare(found, formed).cosine == pytest.approx(1, abs=1e-5)


def test_signs_are_compared_only_where_both_vectors_change() -> None:
    generator = np.random.default_rng(5)
    a, b = generator.standard_normal((2, 600_000))
    a[::2] = 0
    b[::3] = 0
    found, exact = compare(sketch_of({"w": a}), sketch_of({"w": b})), exactly({"w": a}, {"w": b})
    assert found.conflict == pytest.approx(exact.conflict, abs=0.01)
    assert found.shared == pytest.approx(exact.shared, abs=0.01)
    assert exact.shared == pytest.approx(2 / 3, abs=0.01)


def test_a_change_too_small_for_half_precision_stays_a_change() -> None:
    delta = np.full(5000, -1e-12)
    delta[0] = 1.0
    sketch = read_sketch(sketch_of({"w": delta}).to_bytes())
    assert (sketch.values < 0).sum() == 4999
    assert sketch.entries_changed == 5000


def test_magnitudes_are_counted_in_half_octaves() -> None:
    delta = np.repeat([0.0, 1.0, -1.49, 1.5, 2.0, 2**-3], [5, 1, 2, 4, 8, 16])
    assert sketch_of({"w": delta}).histogram == {
        "first": -3.0,
        "counts": [16, 0, 0, 0, 0, 0, 3, 4, 8],
    }
    many = sketch_of(gaussian(1, w=900_000))
    assert sum(many.histogram["counts"]) == pytest.approx(900_000, abs=50)


def test_rows_the_foundation_lacks_do_not_count() -> None:
    sketcher = Sketcher("θ")
    sampler = sketcher.begin("embed", 1000)
    for start in (0, 700, 1400):  # 2100 entries, of which 1000 are shared
        sampler.block(start, np.ones(700))
    sketcher.end(sampler)
    sketch = sketcher.finish()
    assert (sketch.norm**2, sketch.entries_changed) == (pytest.approx(1000), 1000)


def test_nothing_in_common_is_no_conflict() -> None:
    found = compare(sketch_of(gaussian(1, a=500)), sketch_of(gaussian(2, b=500)))
    assert found.verdict == Verdict.INDEPENDENT
    assert (found.cosine, found.conflict, found.overlap, found.shared) == (0, None, 0, 0)
    with pytest.raises(ValueError, match="two foundations"):
        compare(sketch_of(gaussian(1, a=9)), sketch_of(gaussian(1, a=9), foundation="another"))


@pytest.mark.parametrize("cosine", [-0.3, 0.0, 0.6])
def test_one_row_of_bytes_estimates_the_cosine(cosine: float) -> None:
    sizes = {"embed": 300_000, "layer.0": 200_000, "layer.1": 200_000, "bias": 50}
    layout = CoarseLayout(sizes.items())
    a = gaussian(1, **sizes)
    others = [mixed(a, gaussian(2, **sizes), cosine), {"layer.1": a["layer.1"]}, a]
    stored = [layout.row(sketch_of(each)) for each in (*others, a)]
    assert {len(row) for row in stored} == {layout.row_bytes}
    rows = np.stack([np.frombuffer(row, np.int8, offset=SCALE_BYTES) for row in stored])
    scales = np.array([np.frombuffer(row, "<f4", 1)[0] for row in stored])
    found = cosines(stored[-1], rows, scales, np.array([2, 1, 0]))
    exact = [exactly(a, each).cosine for each in reversed(others)]
    assert found == pytest.approx(exact, abs=0.035)
