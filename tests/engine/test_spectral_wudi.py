"""WUDI against the loss as the paper writes it, differentiated by torch and stepped by its Adam."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from merging.engine.spectral import weighted_sum, wudi_merge
from tests.engine.test_spectral_shapes import matrix, source


def loss_of(merged: torch.Tensor, terms: torch.Tensor) -> torch.Tensor:
    products = (merged - terms) @ terms.transpose(1, 2)
    return (products.square().sum(dim=(1, 2)) / terms.square().sum(dim=(1, 2))).sum()


def reference(
    arrays: list[np.ndarray], weights: list[float], steps: int, rate: float
) -> np.ndarray:
    terms = torch.stack([w * torch.from_numpy(a) for w, a in zip(weights, arrays, strict=True)])
    merged = torch.nn.Parameter(terms.sum(dim=0))
    adam = torch.optim.Adam([merged], lr=rate)
    for _step in range(steps):
        adam.zero_grad()
        loss_of(merged, terms).backward()
        adam.step()
    return merged.detach().numpy()


@pytest.mark.parametrize("shape", [(6, 9), (9, 6)])
@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [1.0, 0.5, -2.0]])
def test_the_loss_and_the_steps(shape: tuple[int, int], weights: list[float]) -> None:
    arrays = [matrix(k, shape) for k in range(3)]
    found = wudi_merge(source(arrays), weights, steps=40, learning_rate=1e-2)
    np.testing.assert_allclose(found, reference(arrays, weights, 40, 1e-2), atol=1e-7)
    assert np.abs(found - weighted_sum(source(arrays), weights)).max() > 0.01


def test_the_defaults_are_the_authors() -> None:
    arrays = [1e-3 * matrix(k, (5, 7)) for k in range(2)]
    found = wudi_merge(source(arrays), [1.0, 1.0])
    np.testing.assert_allclose(found, reference(arrays, [1.0, 1.0], 300, 1e-5), atol=1e-9)


def test_interference_goes_down() -> None:
    arrays = [matrix(k, (8, 12), rank=2) for k in range(3)]
    terms = torch.from_numpy(np.stack(arrays))
    start = float(loss_of(terms.sum(dim=0), terms))
    found = wudi_merge(source(arrays), [1.0] * 3, steps=300, learning_rate=1e-2)
    assert float(loss_of(torch.from_numpy(found), terms)) < 0.1 * start


def test_one_vector_comes_back() -> None:
    # Its loss is 0 at once; what Adam makes of the gradient's rounding is bounded by its steps.
    one = matrix(1, (5, 8))
    found = wudi_merge(source([one]), [1.0], steps=10)
    np.testing.assert_allclose(found, one, atol=10 * 1e-5)


def test_an_empty_vector_beside_others_is_no_division_by_zero() -> None:
    arrays = [matrix(1, (4, 6)), np.zeros((4, 6)), matrix(2, (4, 6))]
    found = wudi_merge(source(arrays), [1.0] * 3, steps=15, learning_rate=1e-2)
    expected = reference([arrays[0], arrays[2]], [1.0, 1.0], 15, 1e-2)
    np.testing.assert_allclose(found, expected, atol=1e-7)
