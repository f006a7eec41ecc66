"""Any change as a LoRA: never worse than stated, best possible where exact, the same every time."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load

from merging.engine import cut as cutting
from merging.engine.cut import Budget, cut_matrix, cut_product
from merging.engine.errors import RecipeError
from merging.engine.outputs import make_output, write_output
from merging.engine.run import stream
from tests.engine.models import State, foundation, put_on, same, save, tensors_of, tuned, vector
from tests.engine.test_adapter_out import Small, Transposed, loaded_by_peft, opened, state_of

NUMBER = count()
QUIET = settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def falling(rows: int, columns: int, power: float, seed: int = 0) -> np.ndarray:
    """A matrix whose k-th singular value is k to the −power."""
    draw = np.random.default_rng(seed)
    k = min(rows, columns)
    left, _r = np.linalg.qr(draw.standard_normal((rows, k)))
    right, _r = np.linalg.qr(draw.standard_normal((columns, k)))
    return (left * np.arange(1, k + 1.0) ** -power) @ right.T


def best(matrix: np.ndarray, rank: int) -> float:
    """The least squared error of any matrix of that rank."""
    return float((np.linalg.svd(matrix, compute_uv=False)[rank:] ** 2).sum())


def missing(matrix: np.ndarray, cut: cutting.Cut) -> float:
    return float(np.square(matrix - cut.left.astype(float) @ cut.right.astype(float)).sum())


@QUIET
@given(st.integers(2, 40), st.integers(2, 40), st.integers(1, 45), st.integers(0, 99))
def test_small_matrices_are_cut_best(rows: int, columns: int, rank: int, seed: int) -> None:
    matrix = np.random.default_rng(seed).standard_normal((rows, columns))
    cut = cut_matrix(matrix, Budget(rank))
    square = float(np.square(matrix).sum())
    assert cut.rank == min(rank, rows, columns)
    assert cut.square == pytest.approx(square)
    assert cut.lost == pytest.approx(missing(matrix, cut), abs=1e-9 * square)
    assert cut.lost == pytest.approx(best(matrix, rank), abs=1e-9 * square)


@QUIET
@given(
    st.integers(2, 30), st.integers(2, 30), st.integers(1, 40), st.integers(1, 30), st.integers()
)
def test_products_are_cut_without_being_formed(
    rows: int, columns: int, inner: int, rank: int, seed: int
) -> None:
    draw = np.random.default_rng(abs(seed))
    left, right = draw.standard_normal((rows, inner)), draw.standard_normal((inner, columns))
    cut = cut_product(left, right, Budget(rank))
    matrix = left @ right
    square = float(np.square(matrix).sum())
    assert cut.square == pytest.approx(square)
    assert cut.lost == pytest.approx(best(matrix, rank), abs=1e-9 * square)
    assert missing(matrix, cut) == pytest.approx(cut.lost, abs=1e-9 * square)


@QUIET
@given(st.floats(0.01, 1), st.integers(2, 30), st.booleans())
def test_energy_keeps_as_few_directions_as_will_do(energy: float, size: int, product: bool) -> None:
    matrix = falling(size, size + 3, 0.7)
    budget = Budget(energy=energy)
    cut = cut_product(matrix, np.eye(size + 3), budget) if product else cut_matrix(matrix, budget)
    square = float(np.square(matrix).sum())
    assert 1 - best(matrix, cut.rank) / square >= energy - 1e-9
    assert cut.rank == 1 or 1 - best(matrix, cut.rank - 1) / square < energy + 1e-9


def test_energy_and_rank_together_are_the_fewer() -> None:
    matrix = falling(20, 30, 0.3)
    assert cut_matrix(matrix, Budget(4, 0.99)).rank == 4
    assert cut_matrix(matrix, Budget(19, 0.3)).rank < 19


@pytest.mark.parametrize("power", [0.3, 1.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_large_matrices_are_cut_nearly_best_and_the_error_is_measured(
    monkeypatch: pytest.MonkeyPatch, power: float, dtype: Any
) -> None:
    monkeypatch.setattr(cutting, "LARGEST_EXACT", 100)
    matrix = falling(200, 333, power).astype(dtype)
    square = float(np.square(matrix, dtype=np.float64).sum())
    cut = cut_matrix(matrix, Budget(12), "a.weight")
    assert cut.rank == 12
    assert cut.lost == pytest.approx(missing(matrix, cut), abs=1e-9 * square)
    assert best(matrix, 12) * (1 - 1e-6) <= cut.lost <= best(matrix, 12) * 1.002
    again = cut_matrix(matrix, Budget(12), "a.weight")
    assert np.array_equal(cut.left, again.left)
    assert np.array_equal(cut.right, again.right)


@pytest.mark.parametrize("energy", [0.5, 0.9, 0.999, 1.0])
def test_large_matrices_by_energy(monkeypatch: pytest.MonkeyPatch, energy: float) -> None:
    """Widths are doubled until the energy is there; at last LAPACK takes the whole matrix."""
    monkeypatch.setattr(cutting, "LARGEST_EXACT", 100)
    monkeypatch.setattr(cutting, "FIRST_WIDTH", 4)
    matrix = falling(200, 333, 0.6)
    square = float(np.square(matrix).sum())
    cut = cut_matrix(matrix, Budget(energy=energy), "a.weight")
    assert cut.lost <= (1 - energy + 1e-9) * square
    kept = np.cumsum(np.linalg.svd(matrix, compute_uv=False) ** 2)
    exact = int(np.flatnonzero(kept >= energy * square * (1 - 1e-12))[0]) + 1
    assert exact <= cut.rank <= exact + 2


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"rank": 0}, "rank 0 holds nothing"),
        ({"rank": -3}, "rank -3 holds nothing"),
        ({"energy": 0.0}, "above 0 and up to 1, not 0.0"),
        ({"energy": 1.5}, "above 0 and up to 1, not 1.5"),
        ({"energy": float("nan")}, "above 0 and up to 1"),
        ({}, "Say how much to keep"),
    ],
)
def test_a_budget_of_nonsense_is_refused(asked: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RecipeError, match=sentence):
        Budget(**asked)


def test_peft_loads_what_was_extracted(tmp_path: Path) -> None:
    """At full rank, with everything kept, the LoRA is the fine-tune."""
    torch.manual_seed(0)
    base = state_of(Small())
    fine = {name: value + 0.1 * torch.randn_like(value) for name, value in base.items()}
    on = save(base, tmp_path / "base")
    equipment = put_on(on, on, [(vector(fine, tmp_path / "a"), "1")])
    output = make_output(equipment, "lora", rank=12, keep_whole=True)
    write_output(equipment, output, tmp_path / "out")
    found = loaded_by_peft(Small, base, tmp_path / "out")
    for name in fine:
        torch.testing.assert_close(found[name], fine[name], atol=1e-5, rtol=1e-5, msg=name)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["bias"] == "lora_only"
    again = tensors_of(put_on(on, on, [(opened(tmp_path / "out"), "1")]))
    for name in fine:
        torch.testing.assert_close(again[name], fine[name], atol=1e-5, rtol=1e-5, msg=name)


def test_a_norm_is_replaced_and_none_whose_name_ends_alike(tmp_path: Path) -> None:
    """peft takes `norm` for `layers.0.input_norm` too, and then misses its numbers."""
    base = state_of(Small())
    fine = {name: value.clone() for name, value in base.items()}
    fine["norm.weight"] += 1
    fine["layers.0.o_proj.weight"] += 1
    on = save(base, tmp_path / "base")
    equipment = put_on(on, on, [(vector(fine, tmp_path / "a"), "1")])
    output = make_output(equipment, "lora", rank=2, keep_whole=True)
    write_output(equipment, output, tmp_path / "out")
    found = loaded_by_peft(Small, base, tmp_path / "out")
    for name in fine:
        torch.testing.assert_close(found[name], fine[name], atol=1e-5, rtol=1e-5, msg=name)


def test_gpt2_layers_are_recognised_by_their_biases(tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = state_of(Transposed())
    fine = {name: value + 0.1 * torch.randn_like(value) for name, value in base.items()}
    on = save(base, tmp_path / "base")
    equipment = put_on(on, on, [(vector(fine, tmp_path / "a"), "1")])
    write_output(equipment, make_output(equipment, "lora", rank=12), tmp_path / "out")
    found = loaded_by_peft(Transposed, base, tmp_path / "out")
    for name in ("first.c_proj.weight", "c_attn.weight", "c_proj.weight"):
        torch.testing.assert_close(found[name], fine[name], atol=1e-5, rtol=1e-5, msg=name)
    assert found["wte.weight"].equal(base["wte.weight"])


def test_what_is_left_out_counts_as_lost(tmp_path: Path) -> None:
    base = foundation(torch.bfloat16)
    fine = tuned(base, 1)
    on = save(base, tmp_path / "base")
    equipment = put_on(on, on, [(vector(fine, tmp_path / "a"), "1")])
    output = make_output(equipment, "lora", rank=5)
    stated = json.loads(output.files["errors.json"])
    assert sorted(stated["left_out"]) == ["embed.weight", "norm.bias", "scale"]
    (file,) = output.model.files.values()
    found = load(b"".join(stream(file)))
    square = lost = 0.0
    for name in base:
        if not base[name].is_floating_point():
            continue
        change = fine[name].double() - base[name].double()
        key = f"base_model.model.{name.removesuffix('.weight')}.lora_"
        kept = torch.zeros_like(change)
        if f"{key}A.weight" in found:
            kept = found[f"{key}B.weight"].double() @ found[f"{key}A.weight"].double()
        square += float(change.square().sum())
        lost += float((change - kept).square().sum())
    assert stated["energy_kept"] == pytest.approx(1 - lost / square, abs=1e-9)
    assert stated["relative_error"] == pytest.approx((lost / square) ** 0.5, abs=1e-9)
    assert any("Left out" in sentence for sentence in output.sentences)


def test_a_rank_beyond_the_matrix_is_all_of_it(tmp_path: Path) -> None:
    base = foundation(torch.float32)
    on = save(base, tmp_path / "base")
    moved = {"layers.0.weight": base["layers.0.weight"] + 0.1}
    moved["layers.1.weight"] = torch.randn(37, 53)
    equipment = put_on(on, on, [(vector({**base, **moved}, tmp_path / "a"), "0.5")])
    output = make_output(equipment, "lora", rank=1000)
    (fewer,) = [sentence for sentence in output.sentences if "fewer" in sentence]
    assert "`layers.0.weight`, `layers.1.weight`" in fewer
    stated = json.loads(output.files["errors.json"])
    assert stated["tensors"]["layers.1.weight"]["rank"] == 37
    assert stated["relative_error"] < 1e-6
    assert sorted(stated["tensors"]) == ["layers.0.weight", "layers.1.weight"]


def test_a_change_that_no_lora_can_hold_is_refused(tmp_path: Path) -> None:
    base = foundation(torch.float32)
    on = save(base, tmp_path / "base")
    equipment = put_on(
        on, on, [(vector({"scale": torch.tensor(1.0)}, tmp_path / "d", "delta"), "1")]
    )
    for keep_whole in (False, True):
        with pytest.raises(RecipeError, match="no layer that a LoRA could add to"):
            make_output(equipment, "lora", rank=2, keep_whole=keep_whole)


def test_a_folder_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    base = foundation(torch.bfloat16)
    on = save(base, tmp_path / "base")
    terms = [(vector(tuned(base, n), tmp_path / f"v{n}"), w) for n, w in ((1, "1"), (2, "-1"))]
    equipment = put_on(on, on, terms)
    write_output(equipment, make_output(equipment, "delta"), tmp_path / "d", {"a.txt": b"a"})
    assert sorted(path.name for path in (tmp_path / "d").iterdir()) == [
        "a.txt",
        "delta.safetensors",
    ]
    term = vector(read(tmp_path / "d" / "delta.safetensors"), tmp_path / "again", "delta")
    expected = tensors_of(equipment)
    found = tensors_of(put_on(on, on, [(term, "1")]))
    assert all(same(found[name], expected[name]) for name in expected)


def read(path: Path) -> State:
    return load(path.read_bytes())
