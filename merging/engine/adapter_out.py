"""Writing a PEFT adapter: names, shapes and configuration of one LoRA folder.

The inverse of ``vectors.tensorfile.lora``. Layouts, with ΔW = left (rows, r) · right (r, columns):
a linear layer keeps A = right and B = left, a convolution the same with its kernel's axes; GPT-2's
Conv1D and an embedding keep both transposed. The scaling of every module is 1 (``lora_alpha`` =
``r``): scales live in the factors, because terms of one sum have different ones.

Source: the PEFT checkpoint format (huggingface.co/docs/peft), ``peft.utils.save_and_load`` and
``peft.tuners.tuners_utils``, whose ways of finding a module by name are met here.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from vectors.tensorfile.lora import PREFIX

from .align import COPIED, PlannedTensor
from .errors import RecipeError, _
from .layout import Computing, VirtualFile
from .workspace import BLOCK_ELEMENTS, Workspace

WEIGHTS_FILE, CONFIG_FILE = "adapter_model.safetensors", "adapter_config.json"
Layout = Literal["linear", "transposed", "embedding"]
_MATRICES = ("A.weight", "B.weight")


@dataclass(frozen=True)
class Pair:
    """The low-rank change of one tensor, ``module``.weight of ``shape``, in the file's own names.

    ``factors()`` returns left (rows, rank) and right (rank, columns), float32.
    """

    module: str
    shape: tuple[int, ...]
    rank: int
    layout: Layout
    factors: Callable[[], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Kept:
    """A tensor that the adapter carries whole, under its name in the file."""

    name: str
    planned: PlannedTensor

    @property
    def module(self) -> str:
        return self.name.rpartition(".")[0]


@dataclass(frozen=True)
class Part:
    """One matrix of a LoRA: its rank, the largest it could have, and what was cut away.

    ``square`` and ``lost`` are squared Frobenius norms: of the change, and of what is missing.
    """

    tensor: str
    rank: int
    full: int
    square: float = 0.0
    lost: float = 0.0

    @property
    def error(self) -> float:
        """‖missing‖ / ‖change‖; 0 where nothing was cut."""
        return math.sqrt(self.lost / self.square) if self.square else 0.0


@dataclass(frozen=True)
class Lora:
    """An adapter's two files, what its parts are, and which tensors it lacks.

    The weights are computed as they are read. ``cut`` tells a LoRA with stated errors from an
    exact one. ``kept`` are the tensors carried whole and ``left_out`` the others, each with the
    squared norm of its change (0 where it was not measured).
    """

    config: bytes
    weights: VirtualFile
    parts: Sequence[Part]
    kept: Mapping[str, float]
    left_out: Mapping[str, float]
    cut: bool

    @property
    def rank(self) -> int:
        """The largest rank of a part."""
        return max((part.rank for part in self.parts), default=0)

    @property
    def energy(self) -> float:
        """The share of the squared norm of all changes that is kept; 1 where nothing was cut."""
        left = sum(self.left_out.values())
        square = left + sum(self.kept.values()) + sum(part.square for part in self.parts)
        return 1 - (left + sum(part.lost for part in self.parts)) / square if square else 1.0

    @property
    def error(self) -> float:
        """‖missing‖ / ‖change‖ over all tensors."""
        return math.sqrt(max(0.0, 1 - self.energy))


def adapter_files(
    pairs: Sequence[Pair],
    kept: Sequence[Kept],
    combination: Computing,
    names: Sequence[str],
    *,
    base: str = "",
) -> tuple[bytes, VirtualFile]:
    """adapter_config.json and adapter_model.safetensors of ``pairs`` and ``kept`` tensors.

    Computes nothing yet. ``names`` are those of all tensors of the target, as the adapter calls
    them; ``base`` is the model it is to be put on. Raises RecipeError where one adapter cannot say
    all of it.
    """
    adapted = [pair.module for pair in pairs]
    saved = list(dict.fromkeys(each.module for each in kept if each.module not in adapted))
    layouts = {pair.layout: pair.module for pair in pairs}
    if "linear" in layouts and "transposed" in layouts:
        raise RecipeError(
            _(
                "`%(one)s` is stored as GPT-2 stores its layers and `%(other)s` is not: one "
                "adapter_config.json cannot say both. Make two LoRAs, or the whole model."
            ),
            one=layouts["transposed"],
            other=layouts["linear"],
        )
    ranks = Counter(pair.rank for pair in pairs)
    rank = max(ranks, key=lambda each: (ranks[each], each)) if ranks else 1
    # Anchored, because a pattern otherwise also means every module whose name ends like it.
    other = {f"^{re.escape(p.module)}": p.rank for p in pairs if p.rank != rank}
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "base_model_name_or_path": base or None,
        "task_type": None,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": other,
        "alpha_pattern": other,
        "lora_dropout": 0.0,
        "use_rslora": False,
        "use_dora": False,
        "bias": "lora_only" if any(each.module in adapted for each in kept) else "none",
        "fan_in_fan_out": "transposed" in layouts,
        "init_lora_weights": True,
        "target_modules": _targets(adapted, names),
        "modules_to_save": [_unmistakable(module, names) for module in saved] or None,
    }
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    return text.encode(), _weights(pairs, kept, adapted, combination)


def _targets(adapted: Sequence[str], names: Sequence[str]) -> list[str]:
    """The shortest list that means exactly these modules: ``q_proj`` where all of them are meant.

    PEFT takes a name for every module that is called so or ends with it after a dot.
    """
    wanted = set(adapted)
    # Last names that another module has too; a number is the name of every list's member.
    shared = {each.rpartition(".")[2] for each in _modules(names) - wanted}
    found: dict[str, None] = {}
    for module in adapted:
        last = module.rpartition(".")[2]
        found[module if last in shared or last.isdigit() else last] = None
    return list(found)


def _modules(names: Sequence[str]) -> set[str]:
    """Every module that the tensors' names speak of, containers too."""
    found: set[str] = set()
    for name in names:
        parts = name.split(".")
        found.update(".".join(parts[:end]) for end in range(1, len(parts)))
    return found


def _unmistakable(module: str, names: Sequence[str]) -> str:
    """``module`` as ``modules_to_save`` means it alone: PEFT takes every name that ends with it."""
    if any(each != module and each.endswith(module) for each in _modules(names)):
        return PREFIX + module
    return module


def _weights(
    pairs: Sequence[Pair], kept: Sequence[Kept], adapted: Sequence[str], combination: Computing
) -> VirtualFile:
    last = _Last()
    planned = [tensor for pair in pairs for tensor in _stored(pair, last)]
    whole: dict[str, PlannedTensor] = {}
    for each in kept:
        # PEFT files the bias of an adapted layer below the layer that it wraps.
        below = "base_layer." if each.module in adapted else ""
        key = f"{PREFIX}{each.module}.{below}{each.name.rpartition('.')[2]}"
        whole[key] = each.planned
        planned.append(replace(each.planned, name=key))
    return VirtualFile(WEIGHTS_FILE, planned, {}, _Renamed(combination, whole))


def _stored(pair: Pair, last: _Last) -> list[PlannedTensor]:
    rows, *others = pair.shape
    key = PREFIX + pair.module
    if pair.layout == "linear":
        a = f"{key}.lora_A.weight", (pair.rank, *others)
        b = f"{key}.lora_B.weight", (rows, pair.rank, *[1] * (len(others) - 1))
    else:
        keys = ("embedding_A", "embedding_B") if pair.layout == "embedding" else _MATRICES
        a = f"{key}.lora_{keys[0]}", (pair.rank, rows)
        b = f"{key}.lora_{keys[1]}", (math.prod(others), pair.rank)
    factors = [_Factor(*each, pair, at, last) for at, each in enumerate((a, b))]
    return [PlannedTensor(each.name, each, COPIED, (), each.dtype) for each in factors]


class _Last:
    """Keeps what was computed for the last pair, so that memory is bounded by one tensor."""

    def __init__(self) -> None:
        self._held: tuple[Pair, list[np.ndarray]] | None = None

    def matrices(self, pair: Pair) -> list[np.ndarray]:
        """A and B as they are stored, 1-D."""
        held = self._held
        if held is None or held[0] is not pair:
            left, right = pair.factors()
            stored = [right, left] if pair.layout == "linear" else [left.T, right.T]
            flat = [np.ascontiguousarray(each, np.float32).reshape(-1) for each in stored]
            held = self._held = pair, flat
        return held[1]


class _Factor:
    """A or B of a pair as a tensor that can be read: computed, not stored."""

    dtype = "F32"

    def __init__(
        self, name: str, shape: tuple[int, ...], pair: Pair, which: int, last: _Last
    ) -> None:
        self.name, self.shape = name, shape
        self.count = math.prod(shape)
        self.nbytes = 4 * self.count
        self._pair, self._which, self._last = pair, which, last

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` with the matrix's bytes from ``offset`` on."""
        raw = self._last.matrices(self._pair)[self._which].view(np.uint8)
        buffer[:] = raw[offset : offset + len(buffer)].data


@dataclass(frozen=True)
class _Renamed:
    """A merge whose tensors go by other names in the file than in the recipe."""

    combination: Computing
    tensors: Mapping[str, PlannedTensor]
    by_tensor: bool = True
    block_elements: int = BLOCK_ELEMENTS

    def merge(self, tensor: PlannedTensor, lo: int, hi: int, work: Workspace) -> np.ndarray:
        return self.combination.merge(self.tensors[tensor.name], lo, hi, work)
