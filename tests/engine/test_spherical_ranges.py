"""Statistics of a whole tensor, and yet any range of it alone gives the same bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from merging.engine import compute, gram
from merging.engine.align import TermSource
from merging.engine.pieces import Stored
from merging.engine.run import Equipment, stream, write_model
from merging.engine.whole import SEGMENT, Whole
from merging.engine.workspace import Workspace
from tests.engine.models import State, lora, put_on, save, vector
from tests.engine.spherical import CASES, Case, moved, state
from vectors.tensorfile.checkpoint import Checkpoint

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def build(folder: Path, case: Case) -> Equipment:
    """A tensor of several segments, small ones of other types, a LoRA among the terms."""
    base = state(torch.bfloat16) | {
        "mlp.weight": torch.randn(300, 700, generator=torch.Generator().manual_seed(5)).bfloat16(),
        "mlp.bias": torch.randn(99, generator=torch.Generator().manual_seed(6)),
    }
    opened = save(base, folder / "base")
    terms: list[tuple[TermSource, str]] = [
        (vector(moved(base, at), folder / f"m{at}"), weight)
        for at, weight in enumerate(case.weights)
    ]
    if len(terms) > 2:
        generator = torch.Generator().manual_seed(7)
        factors = {
            "mlp.lora_A.weight": torch.randn(2, 700, generator=generator),
            "mlp.lora_B.weight": torch.randn(300, 2, generator=generator),
        }
        terms[1] = (lora(factors, folder / "lora", r=2, lora_alpha=4), case.weights[1])
    return put_on(opened, opened, terms, method=case.method, parameters=case.parameters)


@every_case
def test_any_range_and_any_block_give_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: Case
) -> None:
    (file,) = build(tmp_path, case).model.files.values()
    whole = b"".join(stream(file))
    generator = np.random.default_rng(3)
    for elements in (500, 4099, 65536):
        monkeypatch.setattr(compute, "BLOCK_ELEMENTS", elements)
        (fresh,) = build(tmp_path / str(elements), case).model.files.values()
        for start, stop in np.sort(generator.integers(0, file.size, (6, 2)), axis=1):
            # The statistics are first asked for by a range somewhere in the middle.
            assert b"".join(stream(fresh, int(start), int(stop))) == whole[start:stop]


def test_two_threads_write_the_stream(tmp_path: Path) -> None:
    equipment = build(tmp_path, CASES["multislerp-3"])
    (file,) = equipment.model.files.values()
    write_model(equipment, tmp_path / "out", {}, threads=2)
    written = (tmp_path / "out" / "model.safetensors").read_bytes()
    assert written == b"".join(stream(file))


# Inner products


def terms_of(rows: list[np.ndarray], folder: Path) -> Whole:
    """A target and K deltas of the same shape, float64."""

    def opened(value: np.ndarray, name: str) -> Checkpoint:
        return save({"w": torch.from_numpy(value)}, folder / name)

    target = opened(np.zeros_like(rows[0]), "target").tensors["w"]
    pieces = [
        Stored(opened(row, f"d{at}").tensors["w"], target, row.size) for at, row in enumerate(rows)
    ]
    return Whole(target, pieces, np.float64, Workspace())


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize(
    "shape", [(3 * SEGMENT + 77,), (700, 301), (5, 4, 3), (2, SEGMENT + 5), (SEGMENT, 2), (1,), ()]
)
@pytest.mark.parametrize("along", ["all", "rows", "columns"])
def test_inner_products_are_those_of_numpy(
    tmp_path: Path, count: int, shape: tuple[int, ...], along: gram.Along
) -> None:
    if along == "columns" and len(shape) < 2:
        return
    generator = np.random.default_rng(1)
    rows = [np.asarray(generator.normal(size=shape)) for _row in range(count)]
    found = gram.gram(terms_of(rows, tmp_path), lambda block: block.all_deltas(), along)
    axis = {"all": None, "rows": -1, "columns": 0}[along]
    for i, a in enumerate(rows):
        for j, b in enumerate(rows):
            wanted = (a * b) if shape == () else (a * b).sum(axis=axis)
            np.testing.assert_allclose(found[:, i, j], np.ravel(wanted), rtol=1e-12, atol=1e-10)


def test_negated_terms_have_negated_products(tmp_path: Path) -> None:
    """Exactly: what decides whether two vectors are opposite."""
    row = np.random.default_rng(1).normal(size=SEGMENT * 2 + 5)
    found = gram.gram(terms_of([row, -row], tmp_path), lambda block: block.all_deltas())[0]
    assert found[0, 0] == found[1, 1] == -found[0, 1] == -found[1, 0]


def test_the_same_state_twice_is_the_same_file(tmp_path: Path) -> None:
    files: list[State | bytes] = []
    for name in ("one", "two"):
        (file,) = build(tmp_path / name, CASES["karcher-4"]).model.files.values()
        files.append(b"".join(stream(file)))
    assert files[0] == files[1]
