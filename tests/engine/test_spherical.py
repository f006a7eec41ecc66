"""Slerp and its kin follow their formulas: every method, storage type, form of a vector."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from merging.engine.align import TermSource
from merging.engine.block import Block
from merging.engine.run import Equipment
from tests.engine.models import State, lora, put_on, same, save, tensors_of, vector
from tests.engine.spherical import CASES, Case, moved, state

# On a line the directions are two, and opposite ones have no mean: see the test of scalars.
NO_SPHERE = {"karcher": ["scale"], "model_stock": ["scale"]}

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def equipped(folder: Path, case: Case, base: State, models: list[State]) -> Equipment:
    opened = save(base, folder / "base")
    terms: list[tuple[TermSource, str]] = [
        (vector(model, folder / f"m{at}"), weight)
        for at, (model, weight) in enumerate(zip(models, case.weights, strict=True))
    ]
    return put_on(opened, opened, terms, method=case.method, parameters=case.parameters)


def expected(case: Case, name: str, base: State, models: list[State]) -> torch.Tensor:
    numbers = [model[name].double() for model in models]
    return case.reference(base[name].double(), numbers, case.numbers)


def few_differ(found: torch.Tensor, wanted: torch.Tensor, name: str) -> None:
    """All but a thousandth are the same bits, and those are neighbours."""
    wanted = wanted.to(found.dtype)
    assert (found != wanted).sum() <= max(1, found.numel() // 1000), name
    torch.testing.assert_close(found, wanted, rtol=2 * torch.finfo(found.dtype).eps, atol=1e-6)


@every_case
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_it_is_the_formula(tmp_path: Path, case: Case, dtype: torch.dtype) -> None:
    base = state(dtype)
    models = [moved(base, seed) for seed in range(1, len(case.weights) + 1)]
    found = tensors_of(equipped(tmp_path, case, base, models))
    assert same(found["positions"], base["positions"])
    for name in set(base) - {"positions", *NO_SPHERE.get(case.method, ())}:
        value = found[name]
        wanted = expected(case, name, base, models)
        if dtype in (torch.float32, torch.float64):
            torch.testing.assert_close(value.double(), wanted, rtol=3e-7, atol=1e-8)
        else:
            few_differ(value, wanted, name)


@every_case
def test_the_fast_loop_has_the_bits_of_the_plain_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: Case
) -> None:
    base = state(torch.bfloat16)
    models = [moved(base, seed) for seed in range(1, len(case.weights) + 1)]
    fast = tensors_of(equipped(tmp_path / "fast", case, base, models))
    monkeypatch.setattr(Block, "raw_models", lambda self: None)
    monkeypatch.setattr(Block, "raw_differences", lambda self: None)
    plain = tensors_of(equipped(tmp_path / "plain", case, base, models))
    assert all(same(fast[name], plain[name]) for name in base)


@every_case
def test_an_adapter_stands_for_the_foundation_with_it(tmp_path: Path, case: Case) -> None:
    """The first term is a LoRA, which leaves most tensors alone."""
    base = state(torch.bfloat16)
    generator = torch.Generator().manual_seed(7)
    left, right = torch.randn(37, 3, generator=generator), torch.randn(3, 53, generator=generator)
    models = [
        base | {"layers.0.weight": base["layers.0.weight"].double() + 2 * left @ right},
        *(moved(base, seed) for seed in range(2, len(case.weights) + 1)),
    ]
    adapter = lora(
        {"layers.0.lora_A.weight": right, "layers.0.lora_B.weight": left},
        tmp_path / "lora",
        r=3,
        lora_alpha=6,
    )
    opened = save(base, tmp_path / "base")
    terms = [(adapter, case.weights[0])] + [
        (vector(model, tmp_path / f"m{at}"), weight)
        for at, (model, weight) in enumerate(zip(models[1:], case.weights[1:], strict=True))
    ]
    found = tensors_of(
        put_on(opened, opened, terms, method=case.method, parameters=case.parameters)
    )
    few_differ(
        found["layers.0.weight"], expected(case, "layers.0.weight", base, models), case.method
    )
    assert all(torch.isfinite(value).all() for value in found.values())


@pytest.mark.parametrize("name", ["slerp", "stock-2", "nearswap", "arcee", "nuslerp"])
def test_another_target_is_where_it_starts_from(tmp_path: Path, name: str) -> None:
    """For methods on vectors the update is added to it; the others have it as their first model."""
    case = CASES[name]
    base = state(torch.float32)
    target = moved(base, 9)
    models = [moved(base, seed) for seed in range(1, len(case.weights) + 1)]
    terms: list[tuple[TermSource, str]] = [
        (vector(model, tmp_path / f"m{at}"), weight)
        for at, (model, weight) in enumerate(zip(models, case.weights, strict=True))
    ]
    found = tensors_of(
        put_on(
            save(target, tmp_path / "target"),
            save(base, tmp_path / "base"),
            terms,
            "target",
            method=case.method,
            parameters=case.parameters,
        )
    )
    for key in ("layers.0.weight", "norm.bias"):
        if name in ("stock-2", "nuslerp"):
            wanted = target[key] - base[key] + expected(case, key, base, models)
        else:
            wanted = expected(case, key, target, models)
        torch.testing.assert_close(found[key].double(), wanted.double(), rtol=1e-6, atol=1e-6)


@every_case
def test_a_tensor_nobody_changed_stays(tmp_path: Path, case: Case) -> None:
    """Zero vectors, equal models: no direction, no division by nothing."""
    base = state(torch.bfloat16)
    found = tensors_of(equipped(tmp_path, case, base, [base for _weight in case.weights]))
    if case.method not in ("passthrough", "multislerp"):
        assert all(same(found[name], base[name]) for name in base)
    assert all(torch.isfinite(value).all() for value in found.values())


@every_case
def test_zeros_are_merged_to_zeros(tmp_path: Path, case: Case) -> None:
    base = {"layers.0.weight": torch.randn(8, 8).bfloat16(), "bias": torch.zeros(64).bfloat16()}
    models = [
        {"layers.0.weight": torch.randn(8, 8).bfloat16(), "bias": torch.zeros(64).bfloat16()}
        for _weight in case.weights
    ]
    found = tensors_of(equipped(tmp_path, case, base, models))
    assert found["bias"].eq(0).all()


def test_rows_that_a_model_lacks_stay(tmp_path: Path) -> None:
    base = {"embed_tokens.weight": torch.randn(9, 4).bfloat16()}
    longer = torch.cat([base["embed_tokens.weight"], torch.randn(3, 4).bfloat16()])
    target = save({"embed_tokens.weight": longer}, tmp_path / "target")
    model = vector({"embed_tokens.weight": torch.randn(9, 4).bfloat16()}, tmp_path / "m")
    found = tensors_of(
        put_on(
            target,
            save(base, tmp_path / "base"),
            [(model, "1")],
            "target",
            method="nearswap",
            parameters={"t": 0.1},
        )
    )["embed_tokens.weight"]
    assert same(found[9:], longer[9:])
    assert not same(found[:9], longer[:9])


def test_a_large_row_diverges_as_a_small_one(tmp_path: Path) -> None:
    """Softmax over numbers from −90 to 90: exponential and logarithm over their whole range."""
    generator = np.random.default_rng(4)
    base = {"w": torch.from_numpy(generator.uniform(-90, 90, (6, 1000)))}
    model = {"w": torch.from_numpy(generator.uniform(-90, 90, (6, 1000)))}
    case = CASES["arcee"]
    found = tensors_of(equipped(tmp_path, case, base, [model]))["w"]
    assert found.equal(expected(case, "w", base, [model]))
    taken = (found == model["w"]).double().mean()
    assert 0.01 < taken < 0.5
