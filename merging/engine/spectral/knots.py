"""KnOTS: vectors brought into one common basis, and merged there by TIES.

Stoica et al., "Model merging with SVD to tie the Knots", ICLR 2025 (arXiv 2410.19735), made for
LoRA, whose updates share few directions with each other:

    [τ_1 … τ_K] = U diag(s) [V_1 … V_K]ᵀ,      C_k = diag(s) V_kᵀ = Uᵀ τ_k
    ΔW = U · TIES(w_1 C_1, …, w_K C_K)

TIES (Yadav et al., NeurIPS 2023, arXiv 2306.01708): of each term the ``density`` largest entries
are kept, each entry's sign is that of the sum, and the terms that agree with it are averaged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .guide import Guide
from .linalg import Array, concat, eigh, host, matmul, noise, one_thread, put, qr
from .plain import Deltas, Factors, factored, load, nothing, present

GUIDE = Guide(
    paper="Model merging with SVD to tie the Knots (arXiv 2410.19735)",
    code="https://github.com/gstoica27/KnOTS",
    default_lambda=0.6,
    lambda_range=(0.3, 1.5),
    vectors="average",
    vocabulary="average",
)


@one_thread
def knots_merge(
    deltas: Deltas,
    weights: Sequence[float],
    *,
    density: float = 0.2,
    factors: Factors | None = None,
    device: str = "cpu",
) -> np.ndarray:
    """ΔW (rows, columns) of KnOTS with TIES.

    ``density`` (0 … 1] is the share of entries each term keeps; with 1 only signs are resolved.
    If all terms have ``factors`` with thin ranks, everything happens in the span of their left
    parts and no τ_k is written out. ``deltas`` is asked twice for each term otherwise.
    """
    terms = present(weights)
    if not terms:
        return nothing(deltas)
    span, parts, shape, dtype = _common_span(deltas, terms, factors, device)
    # U and s come from the Gram matrix Σ τ_k τ_kᵀ in float64, with one term in memory at a time.
    # Squaring costs half the digits: s is known to about 1e-7 · s₀, still below float32's noise.
    gram: Array = 0.0
    for position in range(len(terms)):
        part = parts(position)
        gram = gram + matmul(part, part.T)
    values, basis = eigh(gram)
    floor = max(noise(shape, dtype) ** 2, noise(gram.shape, np.float64)) * values[0]
    rank = int(np.count_nonzero(values > floor))
    if rank == 0:
        return np.zeros(shape, dtype)
    basis = basis[:, :rank]
    left = basis if span is None else matmul(span, basis)
    signs = put(_signs(host(left)), device)
    coordinates = np.stack(
        [host(matmul((basis * signs).T, parts(i)), dtype) for i in range(len(terms))]
    )
    for (_k, weight), own in zip(terms, coordinates, strict=True):
        own *= own.dtype.type(weight)
    merged = put(ties(coordinates, density), device, np.float64)
    return host(matmul(left * signs, merged), dtype)


def _common_span(
    deltas: Deltas, terms: list[tuple[int, float]], factors: Factors | None, device: str
) -> tuple[Array | None, Callable[[int], Array], tuple[int, ...], np.dtype]:
    """(span, parts, shape, dtype): τ of the i-th term is span · parts(i), in float64.

    ``span`` has orthonormal columns, or is None where ``parts(i)`` is τ itself.
    """
    found = factored(factors, [k for k, _weight in terms])
    if found:
        shape: tuple[int, ...] = (found[0][0].shape[0], found[0][1].shape[1])
        ranks = [right.shape[0] for _left, right, _scale in found]
        if sum(ranks) < min(shape):
            lefts = [put(left, device, np.float64) for left, _right, _scale in found]
            span, corner = qr(concat(lefts, 1))
            ends = np.cumsum(ranks)

            def part(i: int) -> Array:
                columns = corner[:, ends[i] - ranks[i] : ends[i]]
                return matmul(columns, put(found[i][1], device, np.float64))

            return span, part, shape, found[0][0].dtype
    first = load(deltas, terms[0][0])
    shape, dtype = first.shape, first.dtype
    return None, lambda i: put(load(deltas, terms[i][0]), device, np.float64), shape, dtype


def _signs(vectors: np.ndarray) -> np.ndarray:
    """+1 or −1 for each column, so that its entry of largest size becomes positive.

    An eigenvector's sign is LAPACK's choice, and TIES must not depend on it where signs are even.
    """
    peaks = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=0)[None], axis=0)[0]
    return np.where(peaks < 0, -1.0, 1.0)


def ties(terms: np.ndarray, density: float) -> np.ndarray:
    """TIES of ``terms`` (K, …), weights already multiplied in: trim, elect signs, average.

    Entries as large as the smallest one kept are kept too. An entry whose sum is exactly zero
    takes the sign that most entries have, as in the authors' code. ``terms`` are changed.
    """
    keep = max(1, int(terms[0].size * density))
    for own in terms:
        sizes = np.abs(own).ravel()
        if keep < sizes.size:
            threshold = np.partition(sizes, sizes.size - keep)[sizes.size - keep]
            own[np.abs(own) < threshold] = 0
    elected = np.sign(terms.sum(axis=0))
    elected[elected == 0] = np.sign(elected.sum())
    total = np.zeros_like(terms[0])
    count = np.zeros(total.shape, np.int32)
    for own in terms:
        agrees = np.where(elected > 0, own > 0, own < 0)
        total += np.where(agrees, own, 0)
        count += agrees
    return total / np.maximum(count, 1).astype(total.dtype)
