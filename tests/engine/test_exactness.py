"""What the engine promises to the last bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from merging.engine import block, run
from merging.engine.align import TermSource
from merging.engine.errors import MergeError, RecipeError
from merging.engine.run import stream, write_model
from tests.engine.models import foundation, put_on, same, save, tensors_of, tuned
from vectors.tensorfile.lora import read_adapter

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_full_vector_at_one_gives_the_fine_tune(tmp_path: Path, dtype: torch.dtype) -> None:
    base, fine = foundation(dtype), tuned(foundation(dtype), 1)
    opened = save(base, tmp_path / "base")
    source = TermSource("a", "a", "full", save(fine, tmp_path / "a"))
    result = tensors_of(put_on(opened, opened, [(source, "1")]))
    assert all(same(result[name], fine[name]) for name in fine)


@pytest.mark.parametrize("dtype", DTYPES)
def test_zero_and_cancelling_terms_give_the_target(tmp_path: Path, dtype: torch.dtype) -> None:
    base = foundation(dtype)
    opened = save(base, tmp_path / "base")
    source = TermSource("a", "a", "full", save(tuned(base, 1), tmp_path / "a"))
    for terms in ([(source, "0")], [(source, "0.7"), (source, "-0.7")], []):
        result = tensors_of(put_on(opened, opened, terms))
        assert all(same(result[name], base[name]) for name in base)


def test_a_fine_tune_minus_its_own_vector_is_the_foundation(tmp_path: Path) -> None:
    base = foundation(torch.bfloat16)
    opened, fine = save(base, tmp_path / "base"), save(tuned(base, 1), tmp_path / "a")
    source = TermSource("a", "a", "full", fine)
    result = tensors_of(put_on(fine, opened, [(source, "-1")], target_ref="a"))
    assert all(same(result[name], base[name]) for name in base)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_follow_the_definition(tmp_path: Path, dtype: torch.dtype) -> None:
    """Multiply, then add, in order, in float32 (or float64), rounded once."""
    base = foundation(dtype)
    first, second = tuned(base, 1), tuned(base, 2)
    delta = {"layers.1.weight": (0.01 * torch.randn(37, 53)).half()}
    lora = {
        "base_model.model.layers.2.lora_A.weight": 0.1 * torch.randn(4, 53),
        "base_model.model.layers.2.lora_B.weight": 0.1 * torch.randn(37, 4),
    }
    opened = save(base, tmp_path / "base")
    adapter = read_adapter({"r": 4, "lora_alpha": 8}, save(lora, tmp_path / "l", "adapter_model"))
    terms = [
        (TermSource("a", "a", "full", save(first, tmp_path / "a")), "0.7"),
        (TermSource("b", "b", "full", save(second, tmp_path / "b")), "-0.3"),
        (TermSource("d", "d", "delta", save(delta, tmp_path / "d", "delta")), "0.5"),
        (TermSource("l", "l", "lora", adapter), "1.5"),
    ]
    result = tensors_of(put_on(opened, opened, terms))
    wide = torch.float64 if dtype in (torch.float32, torch.float64) else torch.float32

    def number(text: str) -> torch.Tensor:
        return torch.tensor(float(text), dtype=wide)

    for name, value in base.items():
        if not value.is_floating_point():
            assert same(result[name], value)
            continue
        theta = value.to(wide)
        total = number("0.7") * (first[name].to(wide) - theta)
        total = total + number("-0.3") * (second[name].to(wide) - theta)
        if name == "layers.1.weight":
            total = total + number("0.5") * delta[name].to(wide)
        if name == "layers.2.weight":
            left = lora["base_model.model.layers.2.lora_B.weight"].to(wide)
            right = lora["base_model.model.layers.2.lora_A.weight"].to(wide)
            product = torch.zeros(37, 53, dtype=wide)
            for k in range(4):
                product = product + left[:, k : k + 1] * right[k : k + 1]
            total = total + number("1.5") * (number("2") * product)
        assert same(result[name], (theta + total).to(dtype)), name


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[run.Equipment, bytes]:
    folder = tmp_path_factory.mktemp("mixed")
    base = foundation(torch.bfloat16)
    opened = save(base, folder / "base")
    terms = [
        (TermSource("a", "a", "full", save(tuned(base, 1), folder / "a")), "0.7"),
        (TermSource("b", "b", "full", save(tuned(base, 2), folder / "b")), "0.4"),
    ]
    equipment = put_on(opened, opened, terms)
    return equipment, b"".join(stream(equipment.model.files["model.safetensors"]))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), elements=st.sampled_from([1, 7, 64, 65536]))
def test_any_range_at_any_chunk_size_is_that_slice(
    mixed: tuple[run.Equipment, bytes],
    monkeypatch: pytest.MonkeyPatch,
    data: st.DataObject,
    elements: int,
) -> None:
    equipment, whole = mixed
    file = equipment.model.files["model.safetensors"]
    assert file.size == len(whole)
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, min(len(whole), start + 3000)))
    monkeypatch.setattr("merging.engine.layout.BLOCK_ELEMENTS", elements)
    assert b"".join(stream(file, start, stop)) == whole[start:stop]


@pytest.mark.parametrize("threads", [1, 3])
def test_a_written_model_is_the_streamed_one(
    mixed: tuple[run.Equipment, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    threads: int,
) -> None:
    equipment, whole = mixed
    monkeypatch.setattr(run, "TASK_BYTES", 5000)
    write_model(equipment, tmp_path / "out", {"config.json": b"{}"}, threads=threads)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == whole
    assert block.BLOCK_ELEMENTS >= 1


def test_a_used_folder_is_refused_and_kept(
    mixed: tuple[run.Equipment, bytes], tmp_path: Path
) -> None:
    (tmp_path / "mine").write_text("keep me")
    with pytest.raises(MergeError, match="not empty"):
        write_model(mixed[0], tmp_path, {})
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_linear_is_the_weighted_mean(tmp_path: Path) -> None:
    base = foundation(torch.float32)
    first, second = tuned(base, 1), tuned(base, 2)
    opened = save(base, tmp_path / "base")
    terms = [
        (TermSource("a", "a", "full", save(first, tmp_path / "a")), "3"),
        (TermSource("b", "b", "full", save(second, tmp_path / "b")), "1"),
    ]
    result = tensors_of(put_on(opened, opened, terms, method="linear"))
    for name in ("layers.0.weight", "scale"):
        mean = (3 * first[name].double() + second[name].double()) / 4
        assert torch.equal(result[name], mean.float())
    terms[1] = (terms[1][0], "-3")
    with pytest.raises(RecipeError, match="sum to zero"):
        put_on(opened, opened, terms, method="linear")


def test_shapes_that_do_not_fit_name_the_tensor(tmp_path: Path) -> None:
    base = foundation(torch.float32)
    other = tuned(base, 1) | {"layers.1.weight": torch.zeros(37, 54)}
    opened = save(base, tmp_path / "base")
    source = TermSource("a", "ann/other", "full", save(other, tmp_path / "a"))
    with pytest.raises(MergeError, match=r"`layers.1.weight` is 37 × 54 in ann/other"):
        put_on(opened, opened, [(source, "0.5")])


def test_vocabulary_rows_are_merged_where_shared_and_kept_beyond(tmp_path: Path) -> None:
    base = foundation(torch.float32)
    longer = {**base, "embed.weight": torch.cat([base["embed.weight"], torch.ones(5, 16)])}
    fine = tuned(base, 1)
    opened, target = save(base, tmp_path / "base"), save(longer, tmp_path / "t")
    source = TermSource("a", "a", "full", save(fine, tmp_path / "a"))
    equipment = put_on(target, opened, [(source, "0.5")], target_ref="t")
    merged = tensors_of(equipment)["embed.weight"]
    assert torch.equal(merged[40:], torch.ones(5, 16))
    assert not torch.equal(merged[:40], base["embed.weight"])
    assert equipment.report.shared_rows == [
        {"term": "a", "tensor": "embed.weight", "rows": 40, "of": 45}
    ]
