"""The same numbers as mergekit's own code, run in this process."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engine.models import State, put_on, save, tensors_of, vector
from tests.engine.spherical import CASES as EVERY
from tests.engine.spherical import Case, karcher

pytest.importorskip("mergekit")

SHAPE = (600, 800)
# With its own tolerance, which ends the iteration before it stands still.
CASES = EVERY | {"karcher-3": Case("karcher", karcher, ["1"] * 3, base=False)}
# mergekit adds up norms in float32. What that moves is a scale, the same for all numbers of a
# tensor, by up to some 10⁻⁵ of it: enough to round this share of bfloat16 numbers the other way.
# The divergences of arcee_fusion lose more: they are what is left when rows nearly cancel.
LOOSE = {
    "karcher-2": 0.02,
    "karcher-3": 0.05,
    "karcher-4": 0.05,
    "arcee": 0.05,
    "multislerp-2": 0.01,
    "multislerp-3": 0.01,
    "multislerp-4": 0.01,
    "multislerp-sum": 0.01,
    "multislerp-models": 0.01,
    "nuslerp-models": 0.01,
    "slerp": 0.01,
    "slerp-beyond": 0.01,
}
NAMES = {"nuslerp_models": "nuslerp", "multislerp_models": "multislerp"}
every_case = pytest.mark.parametrize("name", CASES)


def tensor(seed: int, scale: float) -> torch.Tensor:
    return scale * torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


BASE = tensor(0, 0.02).bfloat16()


def tuned(seed: int) -> torch.Tensor:
    return (BASE.float() + tensor(seed, 0.004)).bfloat16()


def ours(folder: Path, case: Case, models: list[torch.Tensor]) -> torch.Tensor:
    def opened(value: torch.Tensor) -> State:
        return {"layers.0.weight": value}

    base = save(opened(BASE), folder / "base")
    terms = [
        (vector(opened(model), folder / f"m{at}"), weight)
        for at, (model, weight) in enumerate(zip(models, case.weights, strict=True))
    ]
    equipment = put_on(base, base, terms, method=case.method, parameters=case.parameters)
    return tensors_of(equipment)["layers.0.weight"]


def theirs(case: Case, models: list[torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
    api = importlib.import_module("mergekit.merge_methods.api")
    parameters: dict[str, Any] = dict(case.parameters)
    if "slerp" in case.method and case.method != "slerp":
        parameters["weight"] = case.numbers
    return api.merge_tensors(
        [BASE, *models] if case.base else models,
        NAMES.get(case.method, case.method),
        parameters=parameters,
        base_index=0 if case.base else None,
        dtype=dtype,
        out_dtype=torch.bfloat16,
    )


def share_that_differs(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a != b).double().mean())


@every_case
def test_in_double_precision_they_agree(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    models = [tuned(seed) for seed in range(1, len(case.weights) + 1)]
    found, wanted = ours(tmp_path, case, models), theirs(case, models, torch.float64)
    assert share_that_differs(found, wanted) <= 1e-4
    torch.testing.assert_close(found, wanted, rtol=2**-7, atol=1e-7)


@every_case
def test_in_its_usual_precision_they_agree_up_to_its_rounding(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    models = [tuned(seed) for seed in range(1, len(case.weights) + 1)]
    found, wanted = ours(tmp_path, case, models), theirs(case, models, torch.float32)
    assert share_that_differs(found, wanted) <= LOOSE.get(name, 1e-3)
    if name != "arcee":
        torch.testing.assert_close(found, wanted, rtol=2**-7, atol=1e-6)
