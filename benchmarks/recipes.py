"""What is merged: one YAML file an operation, given to both programs as it is.

The files say ``dtype: bfloat16``, as most published recipes do: it is mergekit's fastest setting
(float32 costs it half as much again). Ours computes in float32 and rounds once in either case,
so the comparison is to mergekit's advantage.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .sizes import ADAPTER


@dataclass(frozen=True)
class Targets:
    """What ours is held to: at least ``faster`` times the peer's speed, at most ``cp`` times
    ``cp``, and at most the peer's memory divided by ``memory``. None: no target."""

    faster: float | None = None
    cp: float | None = None
    memory: float | None = None


@dataclass(frozen=True)
class Operation:
    """A merge that is measured.

    ``reads`` are the folders whose weights it needs, the floor reads the same. ``quick`` is the
    set of sizes at which it is part of the ordinary run, ``peer`` those at which the peer is run.
    """

    name: str
    title: str
    recipe: str
    reads: tuple[str, ...]
    quick: frozenset[str]
    peer: frozenset[str]
    targets: Mapping[str, Targets] = field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        """Write the recipe below ``folder`` and return its path."""
        path = folder / f"{self.name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.recipe)
        return path


def _recipe(
    method: str,
    models: Iterable[tuple[str, dict[str, Any]]],
    *,
    base: str | None = "base",
    parameters: Mapping[str, Any] | None = None,
) -> str:
    """YAML in the shape people publish; flow style where a mapping is short."""
    lines = [f"merge_method: {method}"]
    if base:
        lines.append(f"base_model: {base}")
    lines.append("models:")
    for model, values in models:
        lines.append(f"  - model: {model}")
        if values:
            lines.append("    parameters:")
            lines += [f"      {key}: {value}" for key, value in values.items()]
    if parameters:
        lines.append("parameters:")
        lines += [f"  {key}: {value}" for key, value in parameters.items()]
    lines.append("dtype: bfloat16")
    return "\n".join(lines) + "\n"


_BOTH = frozenset({"0.25", "1.1"})
_SMALL = frozenset({"0.25"})
_THREE = ("lowrank", "dense", "sparse")
_WEIGHTS = (0.5, 0.3, 0.2)


def _pair(
    method: str, faster: float, quick: frozenset[str] = _SMALL, **parameters: float
) -> Operation:
    """A sparsifying method on two vectors."""
    models = [("lowrank", {"weight": 0.6, **parameters}), ("dense", {"weight": 0.4, **parameters})]
    return Operation(
        name=method,
        title=f"{method}, 2 full",
        recipe=_recipe(method, models),
        reads=("base", "lowrank", "dense"),
        quick=quick,
        peer=_BOTH,
        targets=dict.fromkeys(_BOTH, Targets(faster=faster)),
    )


_ALL = (
    Operation(
        name="task_arithmetic",
        title="task_arithmetic, 3 full",
        recipe=_recipe(
            "task_arithmetic",
            [(model, {"weight": weight}) for model, weight in zip(_THREE, _WEIGHTS, strict=True)],
            parameters={"lambda": 1.0},
        ),
        reads=("base", *_THREE),
        quick=_BOTH,
        peer=_BOTH,
        targets={"1.1": Targets(faster=8, cp=3.5, memory=15)},
    ),
    Operation(
        name="lora",
        title="task_arithmetic, 1 LoRA",
        recipe=_recipe("task_arithmetic", [(f"base+{ADAPTER}", {"weight": 0.7})]),
        reads=("base", ADAPTER),
        quick=_BOTH,
        peer=_SMALL,  # it writes a whole merged checkpoint first
        targets={"1.1": Targets(cp=2.5)},
    ),
    Operation(
        name="linear",
        title="linear, 3 models",
        recipe=_recipe(
            "linear",
            [(model, {"weight": weight}) for model, weight in zip(_THREE, _WEIGHTS, strict=True)],
            base=None,
        ),
        reads=_THREE,
        quick=_SMALL,
        peer=_BOTH,
    ),
    Operation(
        name="slerp",
        title="slerp, 2 models",
        recipe=_recipe(
            "slerp", [("lowrank", {}), ("dense", {})], base="lowrank", parameters={"t": 0.4}
        ),
        reads=("lowrank", "dense"),
        quick=_SMALL,
        peer=_BOTH,
    ),
    _pair("ties", 25, _BOTH, density=0.2),
    _pair("dare_ties", 12, density=0.5),
    _pair("breadcrumbs", 20, density=0.9, gamma=0.01),
    _pair("della", 20, density=0.5, epsilon=0.15),
)

OPERATIONS = {operation.name: operation for operation in _ALL}
