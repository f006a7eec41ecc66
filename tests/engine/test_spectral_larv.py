"""LARV's summaries and scales against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from merging.engine.spectral import LayerSummary, larv_scales, larv_scores, layer_summary
from merging.engine.spectral.larv import effective_rank
from tests.engine.test_spectral_shapes import matrix, orthogonal


def conflict_reference(A: np.ndarray, D: np.ndarray) -> float:
    left = np.linalg.norm(A @ D.T - D @ A.T)
    right = np.linalg.norm(A.T @ D - D.T @ A)
    return (left + right) / (2 * np.linalg.norm(A) * np.linalg.norm(D))


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (7, 7)])
def test_a_summary_is_the_mean_over_the_matrices(shape: tuple[int, int]) -> None:
    pairs = [(matrix(k, shape), matrix(k + 50, shape)) for k in range(3)]
    found = layer_summary(pairs)
    richness = [effective_rank(A) / effective_rank(D) for A, D in pairs]
    assert found.richness == pytest.approx(np.mean(richness))
    assert found.conflict == pytest.approx(np.mean([conflict_reference(A, D) for A, D in pairs]))


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_effective_rank_counts_equal_directions(rank: int) -> None:
    left, right = orthogonal(1, 8), orthogonal(2, 9)
    assert effective_rank(4.0 * left[:, :rank] @ right[:rank]) == pytest.approx(rank)


def test_an_update_along_the_weights_does_not_conflict() -> None:
    A = matrix(1, (40, 6), dtype=np.float32)
    found = layer_summary([(A, 0.01 * A)])
    assert found.conflict == pytest.approx(0, abs=1e-6)
    assert found.richness == pytest.approx(1)


def test_untouched_matrices_are_left_out() -> None:
    A, D = matrix(1, (4, 5)), matrix(2, (4, 5))
    assert layer_summary([(A, D), (A, 0 * D)]) == layer_summary([(A, D)])
    assert layer_summary([(A, 0 * D)]) == LayerSummary(0.0, 0.0)


LAYERS = [LayerSummary(1 + 0.3 * (k % 4), 0.2 + 0.05 * (k % 3)) for k in range(9)]


def test_scores_are_the_formula() -> None:
    conflicts = [layer.conflict for layer in LAYERS]
    mean = sum(conflicts) / 9
    spread = math.sqrt(sum((c - mean) ** 2 for c in conflicts) / 9)
    expected = [
        layer.richness**2
        * ((index + 1) / 9) ** 0.5
        / (math.log(1 + math.exp((layer.conflict - mean) / spread)) + 1)
        for index, layer in enumerate(LAYERS)
    ]
    np.testing.assert_allclose(larv_scores(LAYERS, eta=2.0), expected)


def test_tiers_are_thirds_of_the_scores() -> None:
    scales = larv_scales(LAYERS, span=0.25)
    order = np.argsort(larv_scores(LAYERS))
    assert scales[order].tolist() == [0.75] * 3 + [1.0] * 3 + [1.25] * 3


def test_the_continuous_gate() -> None:
    scales = larv_scales(LAYERS, gate="continuous", span=0.4, gamma=2.0)
    expected = [1 + 0.4 * math.tanh(2 * (g - 1)) for g in larv_scores(LAYERS)]
    np.testing.assert_allclose(scales, expected)


def test_deeper_and_richer_and_calmer_is_amplified() -> None:
    alike = LayerSummary(1.0, 0.3)
    assert (np.diff(larv_scales([alike] * 6, gate="continuous")) > 0).all()
    rich = larv_scores([alike, alike, LayerSummary(2.0, 0.3), alike])
    assert rich.argmax() == 2
    calm = larv_scores([alike, alike, LayerSummary(1.0, 0.1), alike])
    assert calm[2] > larv_scores([alike] * 4)[2]


@pytest.mark.parametrize("gate", ["tiers", "continuous"])
def test_few_layers(gate: str) -> None:
    assert larv_scales([], gate=gate).shape == (0,)
    assert np.isfinite(larv_scales([LAYERS[0]], gate=gate)).all()
    assert larv_scales([LAYERS[0]]).tolist() == [1.0]
