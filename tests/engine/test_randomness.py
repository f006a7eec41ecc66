"""Draws by address: uniform, independent of each other, and a function of their place alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from merging.engine.randomness import CERTAIN, WINDOW, draws, key_of, limit_of

N = 2**20
KEY = key_of(0, "a", "layers.0.weight")


def uniform(key: int, lo: int = 0, hi: int = N) -> np.ndarray:
    return draws(key, lo, hi) / CERTAIN


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    """In standard errors."""
    return float(np.corrcoef(first, second)[0, 1] * np.sqrt(first.size))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**40), st.integers(0, 3 * WINDOW), st.integers(0, 3 * WINDOW))
def test_a_draw_depends_on_its_place_alone(start: int, first: int, count: int) -> None:
    around = draws(KEY, start, start + first + count)
    assert np.array_equal(draws(KEY, start + first, start + first + count), around[first:])


@pytest.mark.parametrize(
    "other",
    [
        key_of(1, "a", "layers.0.weight"),
        key_of(0, "b", "layers.0.weight"),
        key_of(0, "a", "layers.1.weight"),
        key_of(0, "a\0layers.0", "weight"),
        KEY + 1,
        KEY ^ 1 << 63,
    ],
)
def test_seed_term_and_tensor_have_draws_of_their_own(other: int) -> None:
    ours, others = uniform(KEY), uniform(other)
    assert other != KEY
    assert abs(correlation(ours, others)) < 4.5
    assert abs(np.mean(np.abs(ours - others)) - 1 / 3) < 5 * np.sqrt(1 / 18 / N)
    assert np.count_nonzero(ours == others) < 10


@pytest.mark.parametrize("probability", [0.003, 0.1, 0.5, 0.9, 0.999])
def test_the_share_below_a_limit_is_its_probability(probability: float) -> None:
    for key in range(20):
        share = np.mean(draws(key, 0, N) < limit_of(probability))
        error = np.sqrt(probability * (1 - probability) / N)
        assert abs(share - probability) < 5 * error, key


def test_limits_are_sharp_at_both_ends() -> None:
    assert (limit_of(0.0), limit_of(1.0)) == (0, CERTAIN)
    assert limit_of(2.0**-30) == 4


def test_every_bit_is_a_fair_coin_of_its_own() -> None:
    bits = (draws(KEY, 0, N)[:, None] >> np.arange(32, dtype=np.uint32)) & 1
    assert np.all(np.abs(bits.mean(axis=0) - 0.5) < 5 * 0.5 / np.sqrt(N))
    together = np.corrcoef(bits.T) - np.eye(32)
    assert np.abs(together).max() * np.sqrt(N) < 5.5


@pytest.mark.parametrize("lag", [1, 2, 3, 7, 64, 1000, 1024, 2048, WINDOW, 2 * WINDOW, 8 * WINDOW])
def test_neighbours_at_any_distance_are_strangers(lag: int) -> None:
    """No lattice: not within a window, not from one to the next, not along a row's stride."""
    row = uniform(KEY)
    assert abs(correlation(row[:-lag], row[lag:])) < 4.5
    kept = (row < 0.5).astype(float)
    assert abs(correlation(kept[:-lag], kept[lag:])) < 4.5


def test_pairs_and_values_are_spread_evenly() -> None:
    """χ² of 256 bins, and of 64 × 64 cells of successive draws."""
    row = draws(KEY, 0, N)
    counts = np.bincount(row >> np.uint32(24), minlength=256)
    assert abs(chi_square(counts) - 255) < 5 * np.sqrt(2 * 255)
    cells = (row[::2] >> np.uint32(26)).astype(np.int64) * 64 + (row[1::2] >> np.uint32(26))
    assert abs(chi_square(np.bincount(cells, minlength=4096)) - 4095) < 5 * np.sqrt(2 * 4095)


def chi_square(counts: np.ndarray) -> float:
    expected = counts.sum() / counts.size
    return float(((counts - expected) ** 2 / expected).sum())


def test_the_shares_of_windows_vary_as_chance_has_it() -> None:
    """Windows that were too even, or too uneven, would show in the masks."""
    shares = (uniform(KEY) < 0.3).reshape(-1, WINDOW).mean(axis=1)
    expected = np.sqrt(0.3 * 0.7 / WINDOW)
    assert 0.8 < shares.std() / expected < 1.2


def test_one_bit_of_the_place_changes_half_of_the_draw() -> None:
    places = np.arange(WINDOW)
    row = draws(KEY, 0, WINDOW)
    for bit in range(12):
        changed = row ^ row[places ^ (1 << bit)]
        ones = np.unpackbits(changed.view(np.uint8)).mean()
        assert abs(ones - 0.5) < 0.02, bit


def test_the_draws_are_the_same_forever() -> None:
    """Equal recipes are equal bytes: another generator needs another KERNEL."""
    assert KEY == 0x2C895654B777D320
    assert draws(KEY, 0, 3).tolist() == [4127266482, 2886592681, 3156700408]
    assert draws(KEY, 2**40 + 5, 2**40 + 7).tolist() == [3093843366, 732698343]
