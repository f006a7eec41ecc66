"""Fused loops are the plain ones, faster: the same bits."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from merging.engine import compute, direct, run
from merging.engine.errors import MergeError
from merging.engine.methods import METHODS
from merging.engine.recipe import make_recipe
from merging.engine.run import Equipment, equip, stream, stream_ahead, write_model
from merging.engine.whole import Whole
from tests.engine.models import State, lora, put_on, save, vector
from vectors.tensorfile.errors import TensorFileError

examples = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    numbers = count()
    root = tmp_path_factory.mktemp("fused")
    return lambda: root / str(next(numbers))


def bytes_of(equipment: Equipment) -> bytes:
    (file,) = equipment.model.files.values()
    return b"".join(stream(file))


def written(equipment: Equipment, folder: Path) -> bytes:
    """The same file, written by several threads, some of it from file to file."""
    write_model(equipment, folder, {}, threads=3)
    return (folder / "model.safetensors").read_bytes()


def ahead(equipment: Equipment) -> bytes:
    """The same file in pieces, computed by several threads to where they lie in memory."""
    (file,) = equipment.model.files.values()
    return b"".join(stream_ahead(file))


def plainly(equipment: Equipment) -> bytes:
    """The same file, computed without the fused loop."""
    method = replace(equipment.combination.method, fused=None, direct=None)
    equipment.combination.method = method
    return bytes_of(equipment)


@examples
@given(
    shape=st.tuples(st.integers(1, 9), st.sampled_from([1, 3, 64, 1023, 1024, 1025, 2050])),
    rank=st.integers(1, 9),
    elements=st.sampled_from([50, 1000, 4096, 65536]),
    weight=st.sampled_from(["1", "-0.7", "0.33"]),
    factor=st.sampled_from([1.0, -1.5]),
    seed=st.integers(0, 2**31),
)
@example(shape=(2, 1), rank=4, elements=65536, weight="1", factor=1.0, seed=0)
def test_one_lora(
    room: Callable[[], Path],
    shape: tuple[int, int],
    rank: int,
    elements: int,
    weight: str,
    factor: float,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    folder = room()
    base = torch.randn(shape, generator=generator).bfloat16()
    base.view(-1)[0] = -0.0
    factors = {
        "layers.0.lora_A.weight": torch.randn(rank, shape[1], generator=generator).bfloat16(),
        "layers.0.lora_B.weight": torch.randn(shape[0], rank, generator=generator),
    }
    factors["layers.0.lora_B.weight"][0] = 0.0
    opened = save({"layers.0.weight": base}, folder / "base")
    term = lora(factors, folder / "l", r=rank, lora_alpha=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compute, "BLOCK_ELEMENTS", elements)
        patch.setattr(direct, "RUN", 4 * elements)
        patch.setattr(run, "TASK_BYTES", 4099)
        patch.setattr(run, "PIECE_BYTES", 1001)
        equipment = put_on(opened, opened, [(term, weight)], parameters={"lambda": factor})
        streamed = bytes_of(equipment)
        assert written(equipment, folder / "out") == streamed
        assert ahead(equipment) == streamed
        assert plainly(equipment) == streamed


@examples
@given(
    count=st.integers(1, 4),
    own_target=st.booleans(),
    elements=st.sampled_from([50, 1000, 65536]),
    normalize=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_fine_tunes_on_a_target(
    room: Callable[[], Path],
    count: int,
    own_target: bool,
    elements: int,
    normalize: bool,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    folder = room()
    # An odd tensor of bytes first: what follows begins in the middle of an element's word.
    base = {
        "a.flags": torch.arange(5, dtype=torch.uint8),
        "layers.0.weight": torch.randn(33, 65, generator=generator).bfloat16(),
        "layers.1.bias": torch.randn(7, generator=generator).bfloat16(),
    }

    def moved() -> State:
        return {
            name: (value.float() + 0.1 * torch.randn(value.shape, generator=generator)).bfloat16()
            if value.is_floating_point()
            else value
            for name, value in base.items()
        }

    opened = save(base, folder / "base")
    target = save(moved(), folder / "t") if own_target else opened
    terms = [(vector(moved(), folder / f"m{k}"), f"0.{k + 3}") for k in range(count)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compute, "BLOCK_ELEMENTS", elements)
        patch.setattr(direct, "RUN", 4 * elements)
        patch.setattr(run, "TASK_BYTES", 1001)
        patch.setattr(run, "PIECE_BYTES", 334)
        equipment = put_on(
            target,
            opened,
            terms,
            target_ref="t" if own_target else "base",
            parameters={"normalize": normalize, "lambda": 0.8},
        )
        streamed = bytes_of(equipment)
        assert written(equipment, folder / "out") == streamed
        assert ahead(equipment) == streamed
        assert plainly(equipment) == streamed


@pytest.mark.parametrize("pattern", [0x7FFFFFFF, 0x7FC00000, 0x7F800000])
def test_a_lora_with_a_broken_number_is_refused_whatever_its_bits(
    tmp_path: Path, pattern: int
) -> None:
    """Rounded carelessly, a NaN with a full payload would be a zero."""
    opened = save({"layers.0.weight": torch.ones(8, 16).bfloat16()}, tmp_path / "base")
    factors = {
        "layers.0.lora_A.weight": torch.ones(4, 16),
        "layers.0.lora_B.weight": torch.ones(8, 4),
    }
    factors["layers.0.lora_B.weight"].view(torch.int32)[5, 1] = pattern
    equipment = put_on(
        opened, opened, [(lora(factors, tmp_path / "ann", r=4, lora_alpha=4), "0.5")]
    )
    with pytest.raises(MergeError, match=r"`layers.0.weight` of ann holds"):
        write_model(equipment, tmp_path / "out", {})


def test_what_goes_wrong_in_a_direct_merge_is_said_as_ever(tmp_path: Path) -> None:
    base = {"layers.0.weight": torch.ones(200, 300).bfloat16()}
    opened = save(base, tmp_path / "base")
    fine = {"layers.0.weight": base["layers.0.weight"] * 2}
    fine["layers.0.weight"][3, 4] = float("nan")
    equipment = put_on(opened, opened, [(vector(fine, tmp_path / "ann"), "0.5")])
    with pytest.raises(MergeError, match=r"`layers.0.weight` of ann holds NaN \(element 904\)"):
        write_model(equipment, tmp_path / "out", {})
    equipment = put_on(opened, opened, [(vector(base, tmp_path / "bo"), "0.5")])
    os.truncate(tmp_path / "bo" / "model.safetensors", 50_000)
    with pytest.raises(TensorFileError, match=r"bo/model.safetensors ended early"):
        write_model(equipment, tmp_path / "out", {})
    assert not list(tmp_path.glob("*out*"))


@pytest.mark.parametrize("own_target", [True, False])
@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("name", [name for name in METHODS if METHODS[name].parameter("rescale")])
def test_from_file_to_file(
    room: Callable[[], Path], monkeypatch: pytest.MonkeyPatch, name: str, rescale: bool,
    own_target: bool,
) -> None:  # fmt: skip
    """Statistics and sums by loops that read by themselves, over more than one run."""
    folder = room()
    generator = torch.Generator().manual_seed(11)
    shapes = {"layers.0.weight": (301, 777), "layers.1.weight": (90, 777), "norm.weight": (777,)}
    base = {
        name: torch.randn(shape, generator=generator).bfloat16() for name, shape in shapes.items()
    }

    def moved(by: float) -> State:
        return {
            name: (value.float() + by * torch.randn(value.shape, generator=generator)).bfloat16()
            for name, value in base.items()
        }

    opened = save(base, folder / "base")
    target = save(moved(0.1), folder / "t") if own_target else opened
    terms = [(vector(moved(0.02), folder / f"m{k}"), f"0.{k + 3}") for k in range(2)]

    def equipped() -> Equipment:
        return put_on(
            target,
            opened,
            terms,
            target_ref="t" if own_target else "base",
            method=name,
            parameters={"density": 0.6, "rescale": rescale, "lambda": 0.8},
        )

    by_itself = written(equipped(), folder / "out")
    monkeypatch.setattr(Whole, "stored", lambda whole: None)
    assert plainly(equipped()) == by_itself


@settings(examples, max_examples=12)
@given(
    columns=st.sampled_from([1, 2, 3, 64, 777, 2050]),
    bands=st.lists(
        st.sampled_from(
            [(0.5, 0.15), (0.9, 0.05), (0.3, 0.0), (1.0, 0.1), (0.0, 0.1), (0.5, 0.49)]
        ),
        min_size=1,
        max_size=3,
    ),
    move=st.sampled_from([0.0, 0.003, 1.0]),
    seed=st.integers(0, 2**31),
)
def test_ranks_from_files(
    room: Callable[[], Path],
    columns: int,
    bands: list[tuple[float, float]],
    move: float,
    seed: int,
) -> None:
    """Rows of any length, in more than one block; with ties, and with nothing moved at all."""
    folder = room()
    generator = torch.Generator().manual_seed(seed)
    shape = (140_000 // columns, columns)
    base = {"layers.0.weight": torch.randn(shape, generator=generator).bfloat16()}
    opened = save(base, folder / "base")
    terms = []
    for k, (density, epsilon) in enumerate(bands):
        step = move * torch.randn(shape, generator=generator)
        fine = {name: (value.float() + step).bfloat16() for name, value in base.items()}
        fine["layers.0.weight"].view(-1)[:1] += 1
        own = {"density": density, "epsilon": epsilon}
        terms.append((vector(fine, folder / f"m{k}"), f"0.{k + 3}", own))
    recipe = make_recipe(
        foundation="base",
        target="base",
        terms=[(source.ref, weight, own) for source, weight, own in terms],
        method="della",
    )

    def equipped() -> Equipment:
        sources = [source for source, _weight, _own in terms]
        return equip(recipe, target=opened, foundation=opened, terms=sources)

    def scales(equipment: Equipment) -> list[float]:
        return equipment.combination._arguments["layers.0.weight"].state.trim.scales.tolist()

    from_files, by_blocks = equipped(), equipped()
    result = written(from_files, folder / "out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Whole, "stored", lambda whole: None)
        assert plainly(by_blocks) == result
    assert scales(from_files) == scales(by_blocks)


@pytest.mark.parametrize("name", ["ties", "dare_ties", "della"])
def test_a_file_that_ends_early_is_said_whoever_reads_it(tmp_path: Path, name: str) -> None:
    base = {"layers.0.weight": torch.ones(300, 500).bfloat16()}
    opened = save(base, tmp_path / "base")
    fine = {key: value * 2 for key, value in base.items()}
    terms = [(vector(fine, tmp_path / "bo"), "0.5"), (vector(fine, tmp_path / "chen"), "0.5")]
    equipment = put_on(opened, opened, terms, method=name, parameters={"density": 0.6})
    os.truncate(tmp_path / "bo" / "model.safetensors", 280_000)
    with pytest.raises(TensorFileError, match=r"bo/model.safetensors ended early"):
        write_model(equipment, tmp_path / "out", {})
    assert not list(tmp_path.glob("*out*"))


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("name", [name for name in METHODS if METHODS[name].fused])
def test_full_models(room: Callable[[], Path], name: str, normalize: bool) -> None:
    method = METHODS[name]
    folder = room()
    generator = torch.Generator().manual_seed(7)
    base = {"layers.0.weight": torch.randn(130, 777, generator=generator).bfloat16()}
    opened = save(base, folder / "base")
    terms = []
    for number in range(min(method.maximum_terms or 3, 3)):
        move = 0.02 * torch.randn(130, 777, generator=generator)
        fine = {key: (value.float() + move).bfloat16() for key, value in base.items()}
        weight = ("0.7", "0.31", "0.2")[number] if method.weighted else "1"
        terms.append((vector(fine, folder / f"m{number}"), weight))
    parameters: dict[str, object] = {}
    if method.parameter("normalize"):
        parameters["normalize"] = normalize
    if method.parameter("t"):
        parameters["t"] = 0.4
    if method.parameter("density"):
        parameters["density"] = 0.6
    equipment = put_on(opened, opened, terms, method=name, parameters=parameters)
    assert bytes_of(equipment) == plainly(equipment)
