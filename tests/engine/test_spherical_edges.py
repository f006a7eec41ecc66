"""Where the formulas of slerp and its kin have no answer, or a plain one: and what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from merging.engine.errors import MergeError, RecipeError
from merging.engine.methods import get_method
from merging.engine.methods.karcher import mean
from merging.engine.recipe import make_recipe
from merging.engine.run import Equipment
from tests.engine.models import State, put_on, same, save, tensors_of, vector
from tests.engine.spherical import moved, state

BASE = state(torch.bfloat16) | {"signs": torch.tensor([0.0, -0.0, 1.0, -0.0]).bfloat16()}
A, B, C = (
    moved(BASE, seed) | {"signs": torch.tensor([-0.0, 0.0, -0.0, 2.0]).bfloat16()}
    for seed in (1, 2, 3)
)


def equip(
    folder: Path, method: str, *models: State, base: State = BASE, weights: Any = (), **values: Any
) -> Equipment:
    opened = save(base, folder / "base")
    terms = [(vector(model, folder / f"m{at}"), "1") for at, model in enumerate(models)]
    if weights:
        terms = [(term, weight) for (term, _one), weight in zip(terms, weights, strict=True)]
    return put_on(opened, opened, terms, method=method, parameters=values)


def merge(folder: Path, method: str, *models: State, **given: Any) -> State:
    return tensors_of(equip(folder, method, *models, **given))


def one(*numbers: float) -> State:
    return {"w": torch.tensor(numbers, dtype=torch.float64)}


# The ends


def same_states(found: State, wanted: State) -> bool:
    return all(same(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("method", ["slerp", "nearswap"])
def test_t_0_is_the_target_bit_for_bit(tmp_path: Path, method: str) -> None:
    assert same_states(merge(tmp_path, method, A, t=0), BASE)


def test_t_1_is_the_other_model_by_algebra(tmp_path: Path) -> None:
    equipment = equip(tmp_path, "slerp", A, t=1)
    assert equipment.report.collapsed_to == "m0"
    assert same_states(tensors_of(equipment), A)


def test_a_gradient_goes_from_one_model_to_the_other(tmp_path: Path) -> None:
    """Layer 0 at 0, layer 1 at 1, and a filter for the rest."""
    found = merge(tmp_path, "slerp", A, t=[{"filter": "layers", "value": [0, 1]}, {"value": 0.5}])
    assert same(found["layers.0.weight"], BASE["layers.0.weight"])
    assert same(found["layers.1.weight"], A["layers.1.weight"])
    assert not same(found["norm.bias"], A["norm.bias"])
    assert not same(found["norm.bias"], BASE["norm.bias"])


def test_a_far_number_of_nearswap_moves_by_t_and_a_near_one_is_the_models(tmp_path: Path) -> None:
    found = merge(tmp_path, "nearswap", one(1.05, 3.0, -2.0), base=one(1, 1, 1), t=0.1)["w"]
    torch.testing.assert_close(found, torch.tensor([1.05, 1.1, 0.9]).double())
    assert found[0] == 1.05


@pytest.mark.parametrize("method", ["nuslerp", "nuslerp_models"])
@pytest.mark.parametrize(("weights", "only"), [(("0.3", "0"), A), (("0", "2"), B)])
def test_a_weight_of_0_leaves_the_other_vector(
    tmp_path: Path, method: str, weights: tuple[str, str], only: State
) -> None:
    assert same_states(merge(tmp_path, method, A, B, weights=weights), only)


def test_a_weight_of_0_on_one_layer_leaves_the_other_vector_there(tmp_path: Path) -> None:
    opened = save(BASE, tmp_path / "base")
    terms = [(vector(A, tmp_path / "a"), "1"), (vector(B, tmp_path / "b"), "1")]
    recipe = make_recipe(
        foundation="base",
        target="base",
        terms=[("a", "1", {"weight": [0, 1]}), ("b", "1", {"weight": [1, 1]})],
        method="nuslerp",
    )
    from merging.engine.run import equip as equip_recipe

    found = tensors_of(
        equip_recipe(recipe, target=opened, foundation=opened, terms=[t for t, _one in terms])
    )
    assert same(found["layers.0.weight"], B["layers.0.weight"])
    assert not same(found["layers.1.weight"], B["layers.1.weight"])


@pytest.mark.parametrize(
    ("method", "weight"),
    [("multislerp", "0.4"), ("multislerp_models", "0.4"), ("karcher", "1"), ("passthrough", "1")],
)
def test_one_model_alone_is_that_model(tmp_path: Path, method: str, weight: str) -> None:
    equipment = equip(tmp_path, method, A, weights=[weight])
    assert equipment.report.collapsed_to == "m0"
    assert same_states(tensors_of(equipment), A)


def test_passthrough_scales_where_a_filter_says_so(tmp_path: Path) -> None:
    scale = [{"filter": "layers.0", "value": 0}, {"filter": "bias", "value": -2}, {"value": 1}]
    found = merge(tmp_path, "passthrough", A, scale=scale)
    assert found["layers.0.weight"].eq(0).all()
    assert same(found["norm.bias"], (A["norm.bias"].float() * -2).bfloat16())
    assert same(found["layers.1.weight"], A["layers.1.weight"])
    assert same(found["signs"], A["signs"])


def test_passthrough_takes_the_scale_of_its_model(tmp_path: Path) -> None:
    """Said in the entry of the model, as mergekit lets it be: 1 in the recipe does not count."""
    opened = save(BASE, tmp_path / "base")
    recipe = make_recipe(
        foundation="base",
        target="base",
        terms=[("a", "1", {"scale": 0.5})],
        method="passthrough",
    )
    from merging.engine.run import equip as equip_recipe

    found = tensors_of(
        equip_recipe(recipe, target=opened, foundation=opened, terms=[vector(A, tmp_path / "a")])
    )
    assert same(found["norm.bias"], (A["norm.bias"].float() * 0.5).bfloat16())


# No direction, no arc


@pytest.mark.parametrize("factor", [1.0, 2.5, -1.0, -0.3])
def test_on_one_line_slerp_is_the_straight_way(tmp_path: Path, factor: float) -> None:
    x = torch.randn(40, generator=torch.Generator().manual_seed(1)).double()
    found = merge(tmp_path, "slerp", {"w": factor * x}, base={"w": x}, t=0.25)["w"]
    torch.testing.assert_close(found, 0.75 * x + 0.25 * factor * x)


@pytest.mark.parametrize("factor", [1.0, 3.0, -1.0, -0.37])
@pytest.mark.parametrize("values", [{}, {"nuslerp_flatten": False}])
def test_on_one_line_nuslerp_is_the_straight_way(
    tmp_path: Path, factor: float, values: dict[str, Any]
) -> None:
    """Antiparallel too: half-way between τ and −τ there is nothing, not a huge number."""
    x = torch.randn(6, 7, generator=torch.Generator().manual_seed(1)).double()
    base = torch.randn(6, 7, generator=torch.Generator().manual_seed(2)).double()
    models = [{"w": base + x}, {"w": base + factor * x}]
    found = merge(tmp_path, "nuslerp", *models, base={"w": base}, weights=("1", "1"), **values)["w"]
    torch.testing.assert_close(found, base + 0.5 * x + 0.5 * factor * x)


def test_weights_that_cancel_are_halves_in_nuslerp(tmp_path: Path) -> None:
    half = merge(tmp_path / "half", "nuslerp", A, B, weights=("1", "1"))
    assert same_states(merge(tmp_path / "none", "nuslerp", A, B, weights=("1", "-1")), half)


def test_opposite_models_have_the_first_as_their_karcher_mean(tmp_path: Path) -> None:
    x = one(3, -4)
    found = merge(tmp_path, "karcher", x, {"w": -2 * x["w"]}, base=x)["w"]
    torch.testing.assert_close(found, torch.tensor([4.5, -6.0]).double())  # of mean length 7.5


def test_models_that_are_opposite_up_to_rounding_have_a_karcher_mean() -> None:
    """Whatever the last bits of their inner product, and with it the processor, say."""
    lengths = np.array([1.25780934e-06, 2.78091431e-01])
    for ulps in range(-40, 41):
        found = np.diag(lengths)
        found[0, 1] = found[1, 0] = -np.sqrt(lengths.prod()) * (1 + ulps * 2**-53)
        with np.errstate(all="raise"):
            assert np.isfinite(mean(found, 50, 1e-9)).all(), ulps


def test_karcher_leaves_out_a_model_without_direction_and_counts_its_length(
    tmp_path: Path,
) -> None:
    found = merge(tmp_path, "karcher", one(0, 0), one(6, 0), one(0, 6), base=one(1, 1))["w"]
    torch.testing.assert_close(found, torch.full((2,), 4 * math.sqrt(0.5)).double())


def test_karcher_of_models_on_one_line_is_their_mean(tmp_path: Path) -> None:
    x = torch.randn(50, generator=torch.Generator().manual_seed(1)).double()
    models = [{"w": factor * x} for factor in (1, 2, 6)]
    torch.testing.assert_close(merge(tmp_path, "karcher", *models, base={"w": x})["w"], 3 * x)


def test_karcher_stops_after_its_steps(tmp_path: Path) -> None:
    models = [one(1, 0, 0), one(0, 1, 0), one(-0.9, 0, 0.1)]
    first = merge(tmp_path / "1", "karcher", *models, base=one(1, 1, 1), max_iter=1)["w"]
    last = merge(tmp_path / "9", "karcher", *models, base=one(1, 1, 1), max_iter=100)["w"]
    assert (first - last).abs().max() > 1e-3


def test_opposite_vectors_are_summed_by_multislerp(tmp_path: Path) -> None:
    found = merge(
        tmp_path, "multislerp", one(4, 2), one(-2, 0), base=one(1, 1), weights=("1", "1")
    )["w"]
    torch.testing.assert_close(found, one(1, 1)["w"])


def test_three_vectors_without_a_mean_direction_are_refused(tmp_path: Path) -> None:
    models = [one(1, 0), one(0, 1), one(-1, -1)]
    weights = ("1", "1", str(math.sqrt(2))[:10])
    with pytest.raises(MergeError, match=r"`w`: the models point in opposite directions"):
        merge(tmp_path, "multislerp_models", *models, base=one(1, 1), weights=weights)


def test_a_mean_that_is_nothing_but_rounding_is_no_direction(tmp_path: Path) -> None:
    """Even where the products of the vectors do not cancel to an exact zero."""
    models = [one(1 / 3, 1.1), one(0.3, -1.7), one(-0.7, 0.9)]
    norms = [float(model["w"].norm()) for model in models]
    matrix = torch.stack([model["w"] / n for model, n in zip(models, norms, strict=True)], 1)
    weights = torch.linalg.svd(matrix).Vh[2]
    texts = [f"{float(weight / weights.sum()):.9f}" for weight in weights]
    with pytest.raises(MergeError, match="`w`"):
        merge(
            tmp_path,
            "multislerp_models",
            *models,
            base=one(1, 1),
            weights=texts,
            normalize_weights=False,
            eps=1e-6,
        )


def test_opposed_fine_tunes_leave_model_stock_at_the_foundation(tmp_path: Path) -> None:
    """The denominator vanishes: bit for bit the foundation, its negative zeros too."""
    base = {"w": torch.tensor([1.0, -0.0, 2.0, 0.0]).bfloat16()}
    up = {"w": torch.tensor([2.0, -0.0, 2.0, 0.0]).bfloat16()}
    down = {"w": torch.tensor([0.0, -0.0, 2.0, 0.0]).bfloat16()}
    assert same(merge(tmp_path, "model_stock", up, down, base=base)["w"], base["w"])


def test_a_scalar_is_a_line(tmp_path: Path) -> None:
    def scalar(value: float) -> State:
        return {"w": torch.tensor(value).double()}

    cases = [
        ("model_stock", (3, 5), {}, 4.0),  # both deltas up: c = 1, t = 1
        ("model_stock", (3, -3), {}, 1.0),  # opposed: the foundation
        ("nuslerp", (3, 5), {}, 4.0),
        ("karcher", (3, 5), {}, 4.0),
        ("karcher", (3, -5), {}, 4.0),  # the first one's side
        ("slerp", (3,), {"t": 0.5}, 2.0),
        ("arcee_fusion", (3,), {}, 3.0),  # one probability of 1: no divergence, all are taken
    ]
    for at, (method, values, parameters, wanted) in enumerate(cases):
        models = [scalar(value) for value in values]
        found = merge(tmp_path / str(at), method, *models, base=scalar(1), **parameters)["w"]
        torch.testing.assert_close(found, torch.tensor(wanted).double())


def test_arcee_fusion_takes_what_changed_where_most_did_not(tmp_path: Path) -> None:
    """All quartiles are 0, so every change is outstanding: the model itself, bit for bit."""
    base = {"w": torch.randn(20, 30, generator=torch.Generator().manual_seed(3)).bfloat16()}
    model = {"w": base["w"].clone()}
    model["w"][3, 4:9] += 1
    assert same(merge(tmp_path, "arcee_fusion", model, base=base)["w"], model["w"])


# What is refused


@pytest.mark.parametrize("method", ["slerp", "nearswap"])
def test_t_has_no_default(tmp_path: Path, method: str) -> None:
    with pytest.raises(RecipeError, match=f"`t` is missing: the method {method} needs it"):
        equip(tmp_path, method, A)


def test_a_filter_without_a_rest_is_refused_where_there_is_no_default(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="`t` says nothing about tensors"):
        equip(tmp_path, "slerp", A, t=[{"filter": "layers", "value": 0.5}])


@pytest.mark.parametrize(
    ("method", "count"),
    [("slerp", 2), ("nearswap", 2), ("arcee_fusion", 2), ("passthrough", 2), ("nuslerp", 3)],
)
def test_too_many_models_are_refused(tmp_path: Path, method: str, count: int) -> None:
    values = {"t": 0.5} if get_method(method).parameter("t") else {}
    with pytest.raises(RecipeError, match=f"at most {count - 1} models"):
        equip(tmp_path, method, *(A, B, C)[:count], **values)


def test_model_stock_needs_two(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="at least 2 models"):
        equip(tmp_path, "model_stock", A)


UNWEIGHTED = ["slerp", "karcher", "nearswap", "arcee_fusion", "passthrough", "model_stock"]


@pytest.mark.parametrize("method", UNWEIGHTED)
@pytest.mark.parametrize("weight", [0.5, [0, 1]])
def test_a_weight_is_refused_where_none_counts(method: str, weight: Any) -> None:
    values = {"t": 0.5} if get_method(method).parameter("t") else {}
    with pytest.raises(RecipeError, match=f"The method {method} finds the weights itself"):
        make_recipe(
            foundation="base",
            target="base",
            terms=[("a", "1", {"weight": weight}), ("b", "1")][: 1 + (method == "model_stock")],
            method=method,
            parameters=values,
        )


def test_a_factor_is_refused_where_no_weight_counts() -> None:
    with pytest.raises(RecipeError, match=r"`merge \*mlp\* x 0.5`: the method karcher has no"):
        make_recipe(
            foundation="base",
            target="base",
            terms=[("a", "1")],
            method="karcher",
            rules=["merge *mlp* x 0.5"],
        )


def test_weights_that_sum_to_zero_cannot_be_normalised(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="set normalize_weights to false"):
        equip(tmp_path, "multislerp", A, B, weights=("1", "-1"))
    found = merge(tmp_path, "multislerp", A, B, weights=("1", "-1"), normalize_weights=False)
    assert all(torch.isfinite(value).all() for value in found.values())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("method", "broken", "label"),
    [
        ("arcee_fusion", 0, "the target"),
        ("arcee_fusion", 1, "m0"),
        ("slerp", 0, "the target"),
        ("slerp", 1, "m0"),
        ("model_stock", 0, "the target"),
        ("karcher", 1, "m0"),
    ],
)
def test_a_broken_number_far_away_is_named(
    tmp_path: Path, method: str, bad: float, broken: int, label: str
) -> None:
    """It spoils the statistics of the whole tensor, or hides in what is not taken."""
    states = [{"w": torch.randn(300, 500).bfloat16()} for _state in range(3)]
    states[broken]["w"][299, 3] = bad
    models = states[1:] if method in ("karcher", "model_stock") else states[1:2]
    values = {"t": 0.3} if method == "slerp" else {}
    with pytest.raises(MergeError, match=rf"`w` of {label} holds .* \(element 149503\)"):
        merge(tmp_path, method, *models, base=states[0], **values)


def test_numbers_without_a_length_are_named(tmp_path: Path) -> None:
    with pytest.raises(MergeError, match="`w` holds numbers whose squares are too large"):
        merge(tmp_path, "slerp", one(1e200, 1), base=one(1, 1e200), t=0.3)
