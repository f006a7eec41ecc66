"""Linear: Σ wᵢ θᵢ / Σ wᵢ over whole models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from merging.engine.errors import RecipeError
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

BASE = foundation(torch.bfloat16)
A, B = tuned(BASE, 1), tuned(BASE, 2)
FLOATS = [name for name, value in BASE.items() if value.is_floating_point()]


def mean(weights: list[float], models: list[State], name: str, divide: bool = True) -> torch.Tensor:
    total = torch.zeros(BASE[name].shape)
    for weight, model in zip(weights, models, strict=True):
        total = total + torch.tensor(weight) * model[name].float()
    return (total / torch.tensor(sum(weights)) if divide else total).bfloat16()


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("weights", [("3", "1"), ("0.1", "0.7"), ("1.5", "-0.4")])
def test_it_is_the_weighted_sum_of_models(
    tmp_path: Path, weights: tuple[str, str], normalize: bool
) -> None:
    opened = save(BASE, tmp_path / "base")
    terms = [(vector(A, tmp_path / "a"), weights[0]), (vector(B, tmp_path / "b"), weights[1])]
    found = tensors_of(
        put_on(opened, opened, terms, method="linear", parameters={"normalize": normalize})
    )
    for name in FLOATS:
        assert same(found[name], mean([float(w) for w in weights], [A, B], name, normalize)), name
    assert same(found["positions"], BASE["positions"])


def test_a_delta_and_a_lora_stand_for_the_foundation_with_them(tmp_path: Path) -> None:
    delta = {"layers.0.weight": torch.full((37, 53), 0.5)}
    factors = {
        "layers.1.lora_A.weight": torch.ones(1, 53),
        "layers.1.lora_B.weight": torch.ones(37, 1),
    }
    opened = save(BASE, tmp_path / "base")
    terms = [
        (vector(A, tmp_path / "a"), "1"),
        (vector(delta, tmp_path / "d", "delta"), "1"),
        (lora(factors, tmp_path / "l", r=1, lora_alpha=2), "2"),
    ]
    found = tensors_of(put_on(opened, opened, terms, method="linear"))
    plain = {name: BASE[name].float() for name in FLOATS}
    models = [
        A,
        plain | {"layers.0.weight": plain["layers.0.weight"] + 0.5},
        plain | {"layers.1.weight": plain["layers.1.weight"] + 2},
    ]
    for name in FLOATS:
        assert same(found[name], mean([1.0, 1.0, 2.0], models, name)), name


@pytest.mark.parametrize("weight", ["1", "0.3", "-2"])
def test_one_model_alone_is_that_model(tmp_path: Path, weight: str) -> None:
    """Bit for bit, whatever its weight: w · θ / w is not computed."""
    opened = save(BASE, tmp_path / "base")
    equipment = put_on(opened, opened, [(vector(A, tmp_path / "a"), weight)], method="linear")
    assert equipment.report.collapsed_to == "a"
    assert all(same(tensors_of(equipment)[name], A[name]) for name in A)


def test_the_target_is_no_term(tmp_path: Path) -> None:
    """What lies in the target is kept only where a model has no such tensor."""
    opened = save(BASE, tmp_path / "base")
    on = save(tuned(BASE, 5) | {"extra.weight": torch.ones(2)}, tmp_path / "t")
    terms = [(vector(A, tmp_path / "a"), "1"), (vector(B, tmp_path / "b"), "1")]
    equipment = put_on(on, opened, terms, method="linear", target_ref="t")
    found = tensors_of(equipment)
    assert all(same(found[name], mean([1.0, 1.0], [A, B], name)) for name in FLOATS)
    assert equipment.report.cases["kept"] == ["extra.weight"]


def test_a_tensor_that_one_model_lacks_is_kept_and_reported(tmp_path: Path) -> None:
    """An average over fewer models than the recipe says would be another recipe."""
    lacking = {name: value for name, value in B.items() if name != "layers.2.weight"}
    opened = save(BASE, tmp_path / "base")
    terms = [(vector(A, tmp_path / "a"), "1"), (vector(lacking, tmp_path / "b"), "1")]
    equipment = put_on(opened, opened, terms, method="linear")
    assert equipment.report.absent == {"b": ["layers.2.weight"]}
    assert equipment.report.cases["kept"] == ["layers.2.weight"]
    assert same(tensors_of(equipment)["layers.2.weight"], BASE["layers.2.weight"])


def test_rows_beyond_a_models_vocabulary_are_the_targets(tmp_path: Path) -> None:
    shorter = A | {"embed.weight": A["embed.weight"][:30].clone()}
    opened = save(BASE, tmp_path / "base")
    terms = [(vector(shorter, tmp_path / "a"), "1"), (vector(B, tmp_path / "b"), "1")]
    found = tensors_of(put_on(opened, opened, terms, method="linear"))["embed.weight"]
    filled = torch.cat([shorter["embed.weight"], BASE["embed.weight"][30:]])
    assert same(found, mean([1.0, 1.0], [{"embed.weight": filled}, B], "embed.weight"))


def test_weights_that_sum_to_zero_are_refused(tmp_path: Path) -> None:
    """The peer writes a model of NaN."""
    opened = save(BASE, tmp_path / "base")
    terms = [(vector(A, tmp_path / "a"), "0.3"), (vector(B, tmp_path / "b"), "-0.3")]
    with pytest.raises(RecipeError, match="sum to zero"):
        put_on(opened, opened, terms, method="linear")
    found = tensors_of(
        put_on(opened, opened, terms, method="linear", parameters={"normalize": False})
    )
    assert found["scale"].isfinite()


def test_no_model_is_refused(tmp_path: Path) -> None:
    opened = save(BASE, tmp_path / "base")
    with pytest.raises(RecipeError, match="linear needs at least 1 models"):
        put_on(opened, opened, [], method="linear")
    with pytest.raises(RecipeError, match="linear needs at least 1 models"):
        put_on(opened, opened, [(vector(A, tmp_path / "a"), "0")], method="linear")


@pytest.mark.parametrize("normalize", [True, False])
def test_a_tensor_no_model_touches_is_scaled_like_the_others(
    tmp_path: Path, normalize: bool
) -> None:
    """Without a division the weights need not sum to one, and then nothing stays as it was."""
    base = {"layers.0.weight": torch.ones(4, 3), "layers.1.weight": torch.full((4, 3), 2.0)}
    factors = {
        "layers.0.lora_A.weight": torch.ones(1, 3),
        "layers.0.lora_B.weight": torch.ones(4, 1),
    }
    opened = save(base, tmp_path / "base")
    term = lora(factors, tmp_path / "l", r=1, lora_alpha=1)
    equipment = put_on(
        opened, opened, [(term, "0.5")], method="linear", parameters={"normalize": normalize}
    )
    found = tensors_of(equipment)
    case = "untouched" if normalize else "merged"
    assert equipment.report.cases[case] == (["layers.1.weight"] if normalize else list(base))
    assert found["layers.1.weight"].eq(2 if normalize else 1).all()
    assert found["layers.0.weight"].eq(2 if normalize else 1).all()
