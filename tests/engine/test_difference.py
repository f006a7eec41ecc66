"""A recipe's update as a vector of its own: the same model again, any byte range, nothing else."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load

from merging.engine.align import TermSource
from merging.engine.difference import change_of, is_exact, lay_out_change
from merging.engine.errors import MergeError, RecipeError
from merging.engine.layout import VirtualModel
from merging.engine.methods import METHODS
from merging.engine.run import Equipment, stream
from tests.engine.models import (
    State,
    foundation,
    lora,
    put_on,
    same,
    save,
    tensors_of,
    tuned,
    vector,
)
from vectors.tensorfile.checkpoint import Checkpoint

QUIET = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
NUMBER = count()


def difference_of(equipment: Equipment, dtype: str = "F32") -> State:
    (file,) = lay_out_change(change_of(equipment), dtype).files.values()
    return load(b"".join(stream(file)))


def put_back(
    equipment: Equipment, base: Checkpoint, folder: Path, dtype: str = "F32", **kwargs: object
) -> State:
    """The model that the difference gives on the recipe's own target, at coefficient 1."""
    term = vector(difference_of(equipment, dtype), folder, "delta")
    again = put_on(
        equipment.target, base, [(term, "1")], target_ref=equipment.recipe.target, **kwargs
    )
    return tensors_of(again)


WEIGHTS = st.lists(
    st.decimals(min_value=-3, max_value=3, places=3).filter(bool), min_size=1, max_size=3
)


@QUIET
@given(WEIGHTS, st.sampled_from([torch.bfloat16, torch.float16]), st.booleans(), st.booleans())
def test_equipped_at_one_it_is_the_recipe_bit_for_bit(
    tmp_path: Path, weights: list, dtype: torch.dtype, elsewhere: bool, scaled: bool
) -> None:
    folder = tmp_path / str(next(NUMBER))
    base = foundation(dtype)
    opened = save(base, folder / "base")
    target = save(tuned(base, 9), folder / "target") if elsewhere else opened
    factors = {
        "layers.2.lora_A.weight": torch.randn(4, 53),
        "layers.2.lora_B.weight": torch.randn(37, 4),
    }
    sources = [
        vector(tuned(base, 1), folder / "a"),
        lora(factors, folder / "l", r=4, lora_alpha=8),
        vector({"norm.bias": torch.randn(53)}, folder / "d", "delta"),
    ]
    equipment = put_on(
        target,
        opened,
        [(source, str(weight)) for source, weight in zip(sources, weights, strict=False)],
        target_ref="target" if elsewhere else "base",
        parameters={"lambda": 0.3} if scaled else {},
    )
    change = change_of(equipment)
    expected = tensors_of(equipment)
    found = put_back(equipment, opened, folder / "again")
    if is_exact(change, "F32"):
        assert all(same(found[name], expected[name]) for name in expected)
    else:  # a fine-tune alone at 1 is itself, which a sum meets up to its rounding
        assert (weights[0], scaled, elsewhere) == (1, False, False)
        for name in expected:
            torch.testing.assert_close(found[name], expected[name], atol=1e-6, rtol=2**-10)


@pytest.mark.parametrize(
    ("dtype", "stored", "exact"),
    [
        (torch.bfloat16, "F32", True),
        (torch.bfloat16, "BF16", False),
        (torch.float32, "F64", True),
        (torch.float32, "F32", False),
    ],
)
def test_exactness_is_what_is_said_of_it(
    tmp_path: Path, dtype: torch.dtype, stored: str, exact: bool
) -> None:
    base = foundation(dtype)
    opened = save(base, tmp_path / "base")
    terms = [(vector(tuned(base, n), tmp_path / f"v{n}"), w) for n, w in ((1, "0.7"), (2, "-0.2"))]
    equipment = put_on(opened, opened, terms)
    assert is_exact(change_of(equipment), stored) is exact
    expected = tensors_of(equipment)
    found = put_back(equipment, opened, tmp_path / "again", stored)
    equal = all(same(found[name], expected[name]) for name in expected)
    assert equal is exact
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=2e-3, rtol=2**-7)


@pytest.mark.parametrize(
    "method", [name for name, method in METHODS.items() if method.operates_on == "deltas"]
)
def test_of_every_method_that_adds_it_gives_the_same_bytes(tmp_path: Path, method: str) -> None:
    """The numbers are those of the merge itself, whichever of its loops computed the model."""
    base = foundation(torch.bfloat16)
    opened = save(base, tmp_path / "base")
    weighted = METHODS[method].weighted
    terms = [
        (vector(tuned(base, n), tmp_path / f"v{n}"), weight if weighted else "1")
        for n, weight in ((1, "0.7"), (2, "0.5"))
    ]
    lambdas = {"lambda": 0.6} if METHODS[method].parameter("lambda") else {}
    needed = {p.name: 0.5 for p in METHODS[method].parameters if p.required}
    equipment = put_on(opened, opened, terms, method=method, parameters={**lambdas, **needed})
    assert is_exact(change_of(equipment), "F32")
    expected = tensors_of(equipment)
    found = put_back(equipment, opened, tmp_path / "again")
    assert all(same(found[name], expected[name]) for name in expected)


def test_two_fine_tunes_give_their_difference(tmp_path: Path) -> None:
    """τ_B − τ_A put on A: the whole sum is B, and the difference is B − A."""
    base = foundation(torch.float32)
    a, b = tuned(base, 1), tuned(base, 2)
    b["norm.bias"] = a["norm.bias"].clone()
    opened, on = save(base, tmp_path / "base"), save(a, tmp_path / "a")
    terms = [
        (TermSource("b", "b", "full", save(b, tmp_path / "b")), "1"),
        (TermSource("a", "a", "full", on), "-1"),
    ]
    equipment = put_on(on, opened, terms, target_ref="a")
    assert equipment.report.collapsed_to == "b"
    found = difference_of(equipment, "F64")
    floats = {name for name in base if base[name].is_floating_point()}
    assert set(found) == floats
    for name in floats:
        assert found[name].equal(b[name].double() - a[name].double())
    assert not found["norm.bias"].any()
    assert not is_exact(change_of(equipment), "F64")


def test_what_no_term_touches_is_not_in_it(tmp_path: Path) -> None:
    base = foundation(torch.bfloat16)
    opened = save(base, tmp_path / "base")
    moved = {"layers.1.weight": torch.randn(37, 53).bfloat16()}
    equipment = put_on(
        opened,
        opened,
        [
            (vector(moved, tmp_path / "d", "delta"), "0.5"),
            (vector(tuned(base, 1), tmp_path / "a"), "2"),
        ],
        rules=["skip * of a"],
    )
    assert list(difference_of(equipment)) == ["layers.1.weight"]


def test_average_of_models_is_subtracted(tmp_path: Path) -> None:
    base = foundation(torch.float32)
    opened = save(base, tmp_path / "base")
    terms = [(vector(tuned(base, n), tmp_path / f"v{n}"), "0.5") for n in (1, 2)]
    equipment = put_on(opened, opened, terms, method="linear")
    expected = tensors_of(equipment)
    found = difference_of(equipment, "F64")
    for name in found:
        torch.testing.assert_close(
            found[name], expected[name].double() - base[name].double(), atol=1e-6, rtol=0
        )
    assert not is_exact(change_of(equipment), "F64")


def test_any_range_alone_gives_the_same_bytes(tmp_path: Path) -> None:
    base = {"a.weight": torch.randn(300, 701), "b.weight": torch.randn(11, 7)}
    opened = save(base, tmp_path / "base")
    term = vector(tuned(base, 1), tmp_path / "a")
    change = change_of(put_on(opened, opened, [(term, "0.37")]))
    (file,) = lay_out_change(change, "BF16", one_file=True).files.values()
    whole = b"".join(stream(file))
    assert len(whole) == file.size
    for start, stop in ((0, 1), (4090, 4101), (200_001, 400_003), (file.size - 3, file.size)):
        assert b"".join(stream(file, start, stop)) == whole[start:stop]


def test_rules_that_no_sum_can_say_are_told(tmp_path: Path) -> None:
    base = foundation(torch.float32)
    opened = save(base, tmp_path / "base")
    other = {**tuned(base, 1), "head.weight": torch.randn(2, 2)}
    equipment = put_on(
        opened,
        opened,
        [(vector(other, tmp_path / "a"), "0.5")],
        rules=["take head.weight from a", "take embed.weight from a", "drop norm.bias"],
    )
    change = change_of(equipment)
    assert change.left_out == {
        "norm.bias": "the result does not have it",
        "head.weight": "the target does not have it",
    }
    taken = difference_of(equipment)["embed.weight"]
    torch.testing.assert_close(taken, other["embed.weight"] - base["embed.weight"])
    assert not is_exact(change, "F64")


def test_nothing_changed_is_nothing_to_keep(tmp_path: Path) -> None:
    opened = save(foundation(torch.float32), tmp_path / "base")
    with pytest.raises(RecipeError, match="changes no number"):
        change_of(put_on(opened, opened, []))


def test_a_type_that_cannot_hold_it_is_refused(tmp_path: Path) -> None:
    base = {"a.weight": torch.ones(3, 5)}
    opened = save(base, tmp_path / "base")
    term = vector({"a.weight": torch.full((3, 5), 1e6)}, tmp_path / "d", "delta")
    change = change_of(put_on(opened, opened, [(term, "1")]))
    with pytest.raises(RecipeError, match="F32, BF16, F16, F64, not in I64"):
        lay_out_change(change, "I64")
    model: VirtualModel = lay_out_change(change, "F16")
    with pytest.raises(MergeError, match=r"`a.weight` is too large for F16"):
        b"".join(stream(model.files["delta.safetensors"]))
