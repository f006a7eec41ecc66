"""What one pass over a tensor finds: the size of its delta, and values that are no numbers."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
import torch
from safetensors.torch import save

from vectors.tensorfile.checkpoint import Checkpoint, Tensor
from vectors.tensorfile.lora import LowRank
from vectors.tensorfile.measure import first_broken, measure, measure_low_rank, relative_distance
from vectors.tensorfile.numbers import product_square
from vectors.tensorfile.source import MemorySource


def stored(values: torch.Tensor) -> Tensor:
    files = {"model.safetensors": MemorySource(save({"w": values}), "model.safetensors")}
    return Checkpoint.open(files).tensors["w"]


ONES = torch.ones(4, 3)


@pytest.mark.parametrize("is_delta", [False, True])
def test_rows_that_the_foundation_lacks_do_not_count(is_delta: bool) -> None:
    grown = torch.cat([torch.zeros(4, 3) if is_delta else ONES, torch.full((2, 3), 7.0)])
    found = measure(stored(grown), stored(ONES), is_delta=is_delta)
    assert (found.delta_square, found.changed, found.count) == (0, 0, 12)
    grown[5, 1] = math.nan
    assert measure(stored(grown), stored(ONES), is_delta=is_delta).broken == 1


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.uint8])
def test_a_foundation_of_other_than_numbers_is_left_as_it_is(dtype: torch.dtype) -> None:
    base = stored(torch.ones(4, 3, dtype=dtype))
    found = measure(stored(ONES * 2), base)
    assert (found.changed, found.broken, found.count) == (0, 0, 0)
    assert measure(stored(ONES * math.inf), base).broken == 12
    assert relative_distance(stored(ONES), base) == math.inf


@pytest.mark.parametrize(
    ("ours", "theirs"), [(1e200, 1.0), (1.7e308, -1.7e308), (1e154, 0.0), (8e153, -8e153)]
)
def test_a_delta_whose_square_is_beyond_doubles_is_broken(ours: float, theirs: float) -> None:
    tensor, base = (stored(torch.full((4,), v, dtype=torch.float64)) for v in (ours, theirs))
    assert measure(tensor, base).broken
    assert first_broken(tensor) == "infinity"


def test_so_is_a_product_of_factors() -> None:
    factor = stored(torch.full((2, 2), 1e100, dtype=torch.float64))
    pair = LowRank(factor, factor, False, 2, 1.0, (2, 2))
    assert measure_low_rank(pair).broken
    assert measure_low_rank(LowRank(factor, factor, False, 2, 1e-90, (2, 2))).delta_square < 1e300


@pytest.mark.parametrize("rank", [1, 3, 5, 40])
def test_the_square_of_a_product(rank: int) -> None:
    generator = np.random.default_rng(rank)
    left, right = generator.standard_normal((5, rank)), generator.standard_normal((rank, 7))
    assert product_square(left, right) == pytest.approx(np.sum((left @ right) ** 2))


def test_a_rank_beyond_all_measure_takes_no_memory() -> None:
    left, right = np.ones((2, 50_000)), np.ones((50_000, 3))
    tracemalloc.start()
    try:
        assert product_square(left, right) == pytest.approx(6 * 50_000**2)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
