"""The formulas of slerp and its kin in plain torch, and models to try them on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from tests.engine.models import State

Tensor = torch.Tensor
Reference = Callable[[Tensor, list[Tensor], list[float]], Tensor]


def state(dtype: torch.dtype, seed: int = 0) -> State:
    """Tensors of every number of axes, 0 to 3, two layers of matrices, and an integer."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    return {
        "layers.0.weight": normal(37, 53),
        "layers.1.weight": normal(24, 40),
        "layers.1.kernel": normal(5, 4, 7),
        "norm.bias": normal(53),
        "scale": normal(),
        "positions": torch.arange(9),
    }


def moved(before: State, seed: int, by: float = 0.5) -> State:
    """``before`` turned far away, so that angles matter."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (value.float() + by * torch.randn(value.shape, generator=generator)).to(value.dtype)
        if value.is_floating_point()
        else value
        for name, value in before.items()
    }


def on_arc(a: Tensor, b: Tensor, t: float, dim: int | None, straight: float) -> Tensor:
    """From a to b along the arc, of the flattened tensors or of each run of ``dim``."""
    if dim is None or a.ndim == 0:
        return on_arc(a.reshape(-1), b.reshape(-1), t, 0, straight).reshape(a.shape)
    lengths = a.norm(dim=dim, keepdim=True) * b.norm(dim=dim, keepdim=True)
    cosine = ((a * b).sum(dim, keepdim=True) / lengths).clamp(-1, 1)
    angle = cosine.acos()
    arc = (((1 - t) * angle).sin() * a + (t * angle).sin() * b) / angle.sin()
    return torch.where(cosine.abs() > straight, (1 - t) * a + t * b, arc)


def slerp(t: float) -> Reference:
    return lambda base, models, _weights: on_arc(base, models[0], t, None, 0.9995)


def nuslerp(dim: int | None, of_models: bool = False) -> Reference:
    def reference(base: Tensor, models: list[Tensor], weights: list[float]) -> Tensor:
        origin = torch.zeros_like(base) if of_models else base
        t = weights[1] / sum(weights)
        return origin + on_arc(models[0] - origin, models[1] - origin, t, dim, 1 - 1e-7)

    return reference


def multislerp(of_models: bool = False, normalize: bool = True) -> Reference:
    """With the tangents, as it is published: their weighted sum is zero."""

    def reference(base: Tensor, models: list[Tensor], weights: list[float]) -> Tensor:
        origin = torch.zeros_like(base) if of_models else base
        if len(models) == 1:
            return models[0]
        shares = torch.tensor(weights, dtype=torch.float64)
        shares = shares / shares.sum() if normalize else shares
        flat = torch.stack([(model - origin).reshape(-1) for model in models])
        norms = flat.norm(dim=1, keepdim=True)
        units = flat / norms
        mean = (shares[:, None] * units).sum(0)
        mean = mean / mean.norm()
        tangents = units - (units @ mean)[:, None] * mean
        pull = (shares[:, None] * tangents).sum(0)
        length = pull.norm() + 1e-8
        direction = mean * length.cos() + pull * length.sin() / length
        return origin + (direction * (shares * norms[:, 0]).sum()).reshape(base.shape)

    return reference


def karcher(base: Tensor, models: list[Tensor], _weights: list[float]) -> Tensor:
    """The iteration on whole vectors, run until it stands still."""
    flat = torch.stack([model.reshape(-1) for model in models])
    norms = flat.norm(dim=1, keepdim=True)
    units = flat / norms
    at = units.mean(0) / units.mean(0).norm()
    for _step in range(50):
        cosines = (units @ at).clamp(-1, 1)[:, None]
        angles = cosines.acos()
        towards = torch.where(angles > 1e-9, angles / angles.sin(), 1) * (units - cosines * at)
        pull = towards.mean(0)
        length = pull.norm()
        if length < 1e-14:
            break
        at = length.cos() * at + length.sin() * pull / length
        at = at / at.norm()
    return (norms.mean() * at).reshape(base.shape)


def model_stock(by_row: bool) -> Reference:
    def reference(base: Tensor, models: list[Tensor], _weights: list[float]) -> Tensor:
        deltas = [model - base for model in models]
        if not by_row or base.ndim < 2:
            deltas = [delta.reshape(-1) for delta in deltas]
        count = len(models)
        cosines = [
            (a * b).sum(-1, keepdim=True)
            / (a.norm(dim=-1, keepdim=True) * b.norm(dim=-1, keepdim=True))
            for i, a in enumerate(deltas)
            for b in deltas[i + 1 :]
        ]
        c = torch.stack(cosines).mean(0)
        t = count * c / (1 + (count - 1) * c)
        return base + (t * torch.stack(deltas).mean(0)).reshape(base.shape)

    return reference


def nearswap(t: float) -> Reference:
    def reference(base: Tensor, models: list[Tensor], _weights: list[float]) -> Tensor:
        weight = (t / (models[0] - base).abs().clamp(min=1e-6)).clamp(max=1)
        return weight * models[0] + (1 - weight) * base

    return reference


def arcee_fusion(base: Tensor, models: list[Tensor], _weights: list[float]) -> Tensor:
    p, q = (x.softmax(-1) + 1e-8 for x in (models[0], base))
    divergence = (p * (p / q).log()).sum(-1, keepdim=True).clamp(min=0)
    importance = (models[0] - base).abs() * divergence
    ordered = importance.reshape(-1).sort().values
    first, median, third = (ordered[(len(ordered) - 1) * quarter // 4] for quarter in (1, 2, 3))
    return torch.where(importance >= median + 1.5 * (third - first), models[0], base)


@dataclass(frozen=True)
class Case:
    """One way to call a method, and what it should give."""

    method: str
    reference: Reference
    weights: list[str]
    parameters: dict[str, Any] = field(default_factory=dict)
    mergekit: dict[str, Any] = field(default_factory=dict)
    base: bool = True  # whether mergekit gets the foundation too

    @property
    def numbers(self) -> list[float]:
        return [float(weight) for weight in self.weights]


ROWS = {"nuslerp_flatten": False}
COLUMNS = {"nuslerp_flatten": False, "nuslerp_row_wise": True}
TWO, THREE, FOUR = ["0.7", "0.4"], ["0.7", "0.4", "0.25"], ["0.7", "0.4", "-0.3", "0.1"]
CASES = {
    "slerp": Case("slerp", slerp(0.3), ["1"], {"t": 0.3}),
    "slerp-beyond": Case("slerp", slerp(1.25), ["1"], {"t": 1.25}),
    "nuslerp": Case("nuslerp", nuslerp(None), TWO),
    "nuslerp-rows": Case("nuslerp", nuslerp(-1), TWO, ROWS),
    "nuslerp-columns": Case("nuslerp", nuslerp(0), TWO, COLUMNS),
    "nuslerp-models": Case("nuslerp_models", nuslerp(None, True), TWO, base=False),
    "nuslerp-models-rows": Case("nuslerp_models", nuslerp(-1, True), TWO, ROWS, base=False),
    "nuslerp-models-columns": Case("nuslerp_models", nuslerp(0, True), TWO, COLUMNS, base=False),
    "multislerp-1": Case("multislerp", multislerp(), ["0.4"]),
    "multislerp-2": Case("multislerp", multislerp(), TWO),
    "multislerp-3": Case("multislerp", multislerp(), THREE),
    "multislerp-4": Case("multislerp", multislerp(), FOUR),
    "multislerp-sum": Case(
        "multislerp", multislerp(normalize=False), THREE, {"normalize_weights": False}
    ),
    "multislerp-models": Case("multislerp_models", multislerp(True), THREE, base=False),
    "karcher-1": Case("karcher", karcher, ["1"], base=False),
    "karcher-2": Case("karcher", karcher, ["1"] * 2, {"max_iter": 50, "tol": 1e-9}, base=False),
    "karcher-4": Case("karcher", karcher, ["1"] * 4, {"max_iter": 50, "tol": 1e-9}, base=False),
    "stock-2": Case("model_stock", model_stock(False), ["1"] * 2),
    "stock-4": Case("model_stock", model_stock(False), ["1"] * 4),
    "stock-rows": Case("model_stock", model_stock(True), ["1"] * 3, {"filter_wise": True}),
    "nearswap": Case("nearswap", nearswap(0.2), ["1"], {"t": 0.2}),
    "arcee": Case("arcee_fusion", arcee_fusion, ["1"]),
    "passthrough": Case(
        "passthrough", lambda _b, m, _w: 0.37 * m[0], ["1"], {"scale": 0.37}, base=False
    ),
}
