"""Trimming methods against their formulas, written plainly for whole tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from merging.engine import selection
from tests.engine.models import State, same, save, tensors_of, tuned, vector
from tests.engine.sparse import ELECTING, METHODS, reference, state

REFS = ["0", "1", "2", "3", "4"]  # draws are addressed by the place of a term
WEIGHTS = [0.7, 0.4, -0.3, 1.1, 0.25]
DENSITIES = [0.3, 0.8, 0.5, 0.62, 0.4]
COMPUTE = {torch.bfloat16: torch.float32, torch.float16: torch.float32,
           torch.float32: torch.float64, torch.float64: torch.float64}  # fmt: skip


def own_parameters(method: str, count: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{"density": density} for density in DENSITIES[:count]]
    for number, each in enumerate(found):
        if method.startswith("bread"):
            each["gamma"] = 0.02 * (number + 1)
        if method.startswith("della"):
            each["epsilon"] = 0.05 * (number + 1) if number != 1 else 0.1
    return found


def expected(
    method: str, base: State, models: list[State], parameters: list[dict[str, Any]], **kwargs: Any
) -> State:
    found = {}
    for name, value in base.items():
        if not value.is_floating_point():
            found[name] = value
            continue
        wide = COMPUTE[value.dtype]
        theta = value.to(wide).numpy()
        deltas = [model[name].to(wide).numpy() - theta for model in models]
        merged = reference(
            method,
            name,
            theta,
            deltas,
            WEIGHTS[: len(models)],
            REFS[: len(models)],
            parameters,
            **kwargs,
        )
        found[name] = torch.from_numpy(np.asarray(merged)).to(value.dtype)
    return found


def ours(
    folder: Path,
    method: str,
    base: State,
    models: list[State],
    own: list[dict[str, Any]],
    **kwargs: Any,
) -> State:
    from merging.engine.recipe import make_recipe
    from merging.engine.run import equip

    opened = save(base, folder / "base")
    terms = [vector(model, folder / ref) for model, ref in zip(models, REFS, strict=False)]
    recipe = make_recipe(
        foundation="base",
        target="base",
        terms=[
            (term.ref, weight, each)
            for term, weight, each in zip(terms, WEIGHTS, own, strict=False)
        ],
        method=method,
        **kwargs,
    )
    return tensors_of(equip(recipe, target=opened, foundation=opened, terms=terms))


def assert_equal(found: State, wanted: State, dtype: torch.dtype, loose: bool = False) -> None:
    """Bit for bit; ``loose`` where a norm may be rounded the other way."""
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        if loose and value.is_floating_point():
            tiny = torch.finfo(dtype).eps
            scale = max(float(value.abs().max()), 1e-30)
            torch.testing.assert_close(found[name], value, rtol=0, atol=2 * tiny * scale)
            assert (found[name] != value).float().mean() < 0.01 or value.numel() < 100, name
        else:
            assert same(found[name], value), name


@pytest.mark.parametrize("dtype", COMPUTE)
@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("method", METHODS)
def test_the_published_formula(method: str, count: int, dtype: torch.dtype, tmp_path: Path) -> None:
    base = state(dtype)
    models = [tuned(base, number) for number in range(1, count + 1)]
    parameters = own_parameters(method, count)
    found = ours(tmp_path, method, base, models, parameters)
    assert_equal(found, expected(method, base, models, parameters), dtype, method.startswith("d"))


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_normalize_rescale_and_lambda(
    method: str, rescale: bool, normalize: bool, tmp_path: Path
) -> None:
    base = state(torch.bfloat16)
    models = [tuned(base, number) for number in (1, 2)]
    own = own_parameters(method, 2)
    shared = {"normalize": normalize, "rescale": rescale, "lambda": 0.7, "int8_mask": True}
    found = ours(tmp_path, method, base, models, own, parameters=shared)
    wanted = expected(method, base, models, own, normalize=normalize, rescale=rescale, factor=0.7)
    assert_equal(found, wanted, torch.bfloat16, rescale)


@pytest.mark.parametrize("method", METHODS)
def test_no_density_and_full_density(method: str, tmp_path: Path) -> None:
    base = state(torch.bfloat16)
    models = [tuned(base, number) for number in (1, 2)]
    nothing = ours(tmp_path / "0", method, base, models, [{"density": 0.0}] * 2)
    assert_equal(nothing, base, torch.bfloat16)
    everything: list[dict[str, Any]] = [{"density": 1.0}] * 2
    found = ours(tmp_path / "1", method, base, models, everything)
    assert_equal(found, expected(method, base, models, everything), torch.bfloat16)
    plain = ours(tmp_path / "2", "task_arithmetic", base, models, [{}, {}])
    if method not in ELECTING:
        assert_equal(found, plain, torch.bfloat16)


@pytest.mark.parametrize("move", [0.0, 0.25])
@pytest.mark.parametrize("method", METHODS)
def test_entries_that_are_all_equal(method: str, move: float, tmp_path: Path) -> None:
    """Of equals the right share stays, chosen by draws."""
    base = {name: torch.full_like(value, 2) for name, value in state(torch.float32).items()}
    models = [{name: value + move for name, value in base.items()}] * 2
    own = own_parameters(method, 2)
    found = ours(tmp_path, method, base, models, own)
    wanted = expected(method, base, models, own)
    assert_equal(found, wanted, torch.float32, method.startswith("d"))


@pytest.mark.parametrize("method", ["ties", "breadcrumbs"])
@pytest.mark.parametrize("density", [0.05, 0.3, 0.7])
def test_coarse_numbers_keep_the_density(method: str, density: float, tmp_path: Path) -> None:
    """A fine-tune in bfloat16 has a fifth of its differences at one magnitude."""
    generator = torch.Generator().manual_seed(4)
    theta = 0.02 * torch.randn(400, 600, generator=generator)
    base = {"w": theta.bfloat16()}
    fine = {"w": (theta + 0.0002 * torch.randn(400, 600, generator=generator)).bfloat16()}
    delta = fine["w"].float() - base["w"].float()
    counts = delta.abs().unique(return_counts=True)[1]
    assert counts.max() > 0.1 * delta.numel()
    own: list[dict[str, Any]] = [{"density": density, "gamma": 0.02}]
    if method == "ties":
        del own[0]["gamma"]
    found = ours(tmp_path, method, base, [fine], own, parameters={"lambda": 0.5})["w"]
    kept = float((found.float() != base["w"].float()).float().mean())
    # What changes by half a unit in the last place may round back to the base.
    assert kept < density + 0.002
    more = ours(tmp_path / "2", method, {"w": base["w"].float()}, [{"w": fine["w"].float()}], own)
    kept = float((more["w"] != base["w"].float()).float().mean())
    share = float((delta != 0).float().mean())
    assert abs(kept - min(density, share - 0.02 * (method != "ties"))) < 0.003


@pytest.mark.parametrize("method", ["ties", "breadcrumbs", "breadcrumbs_ties"])
def test_the_slow_way_to_a_threshold(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "SPREADS", 0.0)
    monkeypatch.setattr(selection, "CHUNKS", 1)
    base = state(torch.bfloat16)
    models = [tuned(base, number) for number in (1, 2)]
    own = own_parameters(method, 2)
    found = ours(tmp_path, method, base, models, own)
    assert_equal(found, expected(method, base, models, own), torch.bfloat16)


def test_breadcrumbs_drop_fewer_outliers_where_density_needs_them(tmp_path: Path) -> None:
    base = state(torch.float32)
    models = [tuned(base, 1)]
    own: list[dict[str, Any]] = [{"density": 0.95, "gamma": 0.3}]
    found = ours(tmp_path, "breadcrumbs", base, models, own)
    assert_equal(found, expected("breadcrumbs", base, models, own), torch.float32)
    moved = (found["layers.0.weight"] != base["layers.0.weight"]).float().mean()
    assert abs(float(moved) - 0.95) < 0.001
