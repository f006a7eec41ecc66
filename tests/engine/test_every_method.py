"""What holds for every method there is: ranges, threads, broken numbers, untouched tensors."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from merging.engine import compute
from merging.engine.errors import MergeError
from merging.engine.methods import METHODS, Method
from merging.engine.run import Equipment, stream, write_model
from tests.engine.models import State, foundation, put_on, save, tensors_of, tuned, vector

# Enough to make each of them run; everything else stays at its default.
NEEDED: dict[str, dict[str, Any]] = {
    "slerp": {"t": 0.3},
    "nearswap": {"t": 0.01},
    "wudi": {"steps": 3},
    "passthrough": {"scale": 0.5},
}
SPARSE = {"density": 0.4}


def parameters(method: Method) -> dict[str, Any]:
    found = dict(NEEDED.get(method.name, {}))
    if method.parameter("density"):
        found |= SPARSE
    return found


def merged(
    method: Method, folder: Path, dtype: torch.dtype, spoil: float | None = None
) -> tuple[State, Equipment]:
    """As many fine-tunes as the method takes, up to three, on a foundation of ``dtype``."""
    base = foundation(dtype)
    count = min(method.maximum_terms or 3, 3)
    opened = save(base, folder / "base")
    terms = []
    for number in range(count):
        fine = tuned(base, number + 1)
        fine["norm.bias"] = base["norm.bias"].clone()  # every model leaves this one alone
        if spoil is not None and number == count - 1:
            fine["layers.1.weight"].view(-1)[1000] = spoil
        weight = ("0.7", "0.4", "0.3")[number] if method.weighted else "1"
        terms.append((vector(fine, folder / f"m{number}"), weight))
    return base, put_on(opened, opened, terms, method=method.name, parameters=parameters(method))


@pytest.mark.parametrize("name", METHODS)
def test_a_number_that_is_none_is_an_error_that_names_model_and_tensor(
    name: str, tmp_path: Path
) -> None:
    """Also where the method would drop it: mergekit writes such a model and exits with 0."""
    method = METHODS[name]
    _base, equipment = merged(method, tmp_path, torch.bfloat16, spoil=float("nan"))
    label = re.escape(equipment.combination.labels[-1])
    with pytest.raises(MergeError, match=rf"`layers.1.weight` of {label} holds NaN"):
        tensors_of(equipment)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", METHODS)
def test_any_range_block_and_thread_gives_the_same_bytes(
    name: str, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, equipment = merged(METHODS[name], tmp_path, dtype)
    (file,) = equipment.model.files.values()
    whole = b"".join(stream(file))
    found = tensors_of(equipment)
    assert found["positions"].equal(base["positions"])
    assert all(found[key].dtype == value.dtype for key, value in base.items())
    assert not found["layers.0.weight"].equal(base["layers.0.weight"])
    generator = np.random.default_rng(5)
    for elements in (997, 64):
        monkeypatch.setattr(compute, "BLOCK_ELEMENTS", elements)
        _again, anew = merged(METHODS[name], tmp_path / str(elements), dtype)
        (fresh,) = anew.model.files.values()
        for start, stop in np.sort(generator.integers(0, file.size, (6, 2)), axis=1):
            assert b"".join(stream(fresh, int(start), int(stop))) == whole[start:stop]
    write_model(anew, tmp_path / "out", {}, threads=3)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == whole


@pytest.mark.parametrize("name", [name for name in METHODS if name != "passthrough"])  # it scales
def test_a_tensor_that_every_model_leaves_alone_stays(name: str, tmp_path: Path) -> None:
    base, equipment = merged(METHODS[name], tmp_path, torch.float32)
    torch.testing.assert_close(
        tensors_of(equipment)["norm.bias"], base["norm.bias"], rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("name", METHODS)
def test_every_method_explains_itself(name: str) -> None:
    """Pages, the command's help and the docs are made from these."""
    method = METHODS[name]
    assert method.name == name
    assert method.title
    assert method.formula
    assert method.help.endswith(".")
    assert method.source
    for parameter in method.parameters:
        assert parameter.help.endswith(".")
        if parameter.default is not None:
            assert parameter.check(parameter.default) == parameter.default
    scale = method.parameter("lambda")
    if scale is not None:
        assert method.suggested is not None, "a λ needs a sensible range"
        low, usual, high = method.suggested
        assert low <= usual <= high
