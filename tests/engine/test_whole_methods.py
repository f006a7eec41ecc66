"""Methods on whole matrices, as the engine runs them: which tensors, ranges, kept results."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from merging.engine.errors import MergeError
from merging.engine.methods import METHODS
from merging.engine.results import FolderResults, trim_results
from merging.engine.run import Equipment, stream, write_model
from merging.engine.spectral import GUIDES, tsv_merge
from tests.engine.models import State, foundation, lora, put_on, save, tensors_of, tuned, vector

WHOLE = ["tsv", "svc", "iso_c", "iso_cts", "knots", "core_space", "wudi"]
GUIDE_OF = {"core_space": "core"}


def three(folder: Path) -> tuple[State, list[State], Equipment]:
    """A foundation, two fine-tunes and a LoRA on it, merged by TSV."""
    return _merged(folder, "tsv")


def _merged(folder: Path, method: str, **kwargs: object) -> tuple[State, list[State], Equipment]:
    base = foundation(torch.float32)
    fine = [tuned(base, 1), tuned(base, 2)]
    factors = {
        "layers.0.lora_A.weight": torch.randn(4, 53, generator=torch.Generator().manual_seed(5)),
        "layers.0.lora_B.weight": torch.randn(37, 4, generator=torch.Generator().manual_seed(6)),
    }
    opened = save(base, folder / "base")
    terms = [
        (vector(fine[0], folder / "a"), "1"),
        (vector(fine[1], folder / "b"), "-0.5"),
        (lora(factors, folder / "l", r=4, lora_alpha=1), "0.5"),
    ]
    left, right = (factors[f"layers.0.lora_{kind}.weight"].double() for kind in "BA")
    adapted = dict(base) | {"layers.0.weight": base["layers.0.weight"] + 0.25 * left @ right}
    return base, [*fine, adapted], put_on(opened, opened, terms, **kwargs, method=method)


def test_matrices_are_decomposed_and_the_rest_is_averaged(tmp_path: Path) -> None:
    base, models, equipment = three(tmp_path)
    found = tensors_of(equipment)
    deltas = [model["layers.0.weight"].double() - base["layers.0.weight"] for model in models]
    wanted = tsv_merge(lambda k: deltas[k].numpy().copy(), [1, -0.5, 0.5])
    torch.testing.assert_close(
        found["layers.0.weight"],
        (base["layers.0.weight"].double() + 1.4 * torch.from_numpy(wanted)).float(),
        atol=1e-6, rtol=1e-5,
    )  # fmt: skip
    for name in ("norm.bias", "embed.weight", "scale"):
        average = (
            sum(
                w * (model[name].double() - base[name])
                for w, model in zip([1, -0.5], models[:2], strict=True)
            )
            / 3
        )
        torch.testing.assert_close(found[name], (base[name] + 1.4 * average).float())
    assert found["positions"].equal(base["positions"])


@pytest.mark.parametrize("method", WHOLE)
def test_any_range_is_that_slice_of_the_whole(tmp_path: Path, method: str) -> None:
    parameters = {"steps": 3} if method == "wudi" else {}
    _base, _models, equipment = _merged(tmp_path, method, parameters=parameters)
    (file,) = equipment.model.files.values()
    whole = b"".join(stream(file))
    generator = np.random.default_rng(3)
    for start, stop in np.sort(generator.integers(0, file.size, (20, 2)), axis=1):
        assert b"".join(stream(file, int(start), int(stop))) == whole[start:stop]
    write_model(equipment, tmp_path / "out", {}, threads=2)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == whole


@pytest.mark.parametrize("method", [*WHOLE, "consensus"])
def test_each_method_declares_its_own_scale(method: str) -> None:
    declared, guide = METHODS[method], GUIDES[GUIDE_OF.get(method, method)]
    scale = declared.parameter("lambda")
    assert scale is not None
    assert scale.default == guide.default_lambda
    assert declared.suggested == (guide.lambda_range[0], scale.default, guide.lambda_range[1])


def test_a_kept_result_is_the_file_from_then_on(tmp_path: Path) -> None:
    """Computed once: what is kept is served, whatever would be computed now."""
    _base, _models, equipment = three(tmp_path)
    recipe = equipment.recipe
    (file,) = equipment.model.files.values()
    first = b"".join(stream(file))
    kept = FolderResults(tmp_path / "kept", recipe.hash)
    combination = file.combination
    combination.results = kept
    assert b"".join(stream(file)) == first
    assert kept.get("layers.0.weight") is not None
    assert kept.get("norm.bias") is None, "only whole-tensor results are kept"
    kept.put("layers.1.weight", np.zeros(37 * 53))
    second = b"".join(stream(file))
    assert second != first
    assert len(second) == len(first)


def test_a_cut_file_is_no_result(tmp_path: Path) -> None:
    kept = FolderResults(tmp_path, "ab" * 32)
    kept.put("x", np.arange(100.0))
    (path,) = tmp_path.rglob("*.npy")
    path.write_bytes(path.read_bytes()[:200])
    assert kept.get("x") is None
    assert not list(tmp_path.rglob("*.partial"))


def test_a_broken_number_is_named_by_model_and_tensor(tmp_path: Path) -> None:
    """The decomposition only knows that something is not finite."""
    base = foundation(torch.float32)
    fine = tuned(base, 1)
    fine["layers.1.weight"][2, 3] = float("nan")
    opened = save(base, tmp_path / "base")
    terms = [(vector(fine, tmp_path / "ann"), "1"), (vector(tuned(base, 2), tmp_path / "b"), "1")]
    equipment = put_on(opened, opened, terms, method="tsv")
    with pytest.raises(MergeError, match=r"`layers.1.weight` of ann holds NaN \(element 109\)"):
        tensors_of(equipment)


def test_the_longest_unused_results_go_first(tmp_path: Path) -> None:
    first, second = FolderResults(tmp_path, "aa" * 32), FolderResults(tmp_path, "bb" * 32)
    for kept in (first, second):
        for name in ("x", "y"):
            kept.put(name, np.zeros(1000))
    size = next(tmp_path.rglob("*.npy")).stat().st_size
    for age, path in enumerate([*(tmp_path / "aa").rglob("*.npy")]):
        os.utime(path, (age, age))
    for path in (tmp_path / "bb").rglob("*.npy"):
        os.utime(path, (50, 50))
    assert first.get("x") is not None, "used a moment ago"
    assert trim_results(tmp_path, 3 * size) == size
    assert first.get("y") is None
    assert first.get("x") is not None
    assert second.get("x") is not None
    assert trim_results(tmp_path, 0) == 3 * size
    assert trim_results(tmp_path / "none", 0) == 0


def test_what_is_kept_makes_room_for_itself(tmp_path: Path) -> None:
    FolderResults(tmp_path, "aa" * 32).put("x", np.zeros(1000))
    (path,) = tmp_path.rglob("*.npy")
    os.utime(path, (1, 1))
    newer = FolderResults(tmp_path, "bb" * 32, limit=path.stat().st_size)
    newer.put("x", np.ones(1000))
    assert not path.exists()
    assert newer.get("x") is not None
