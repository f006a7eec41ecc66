"""What an adapter calls the tensors of a target, and what it can say of each of them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import cached_property

from vectors.tensorfile.checkpoint import TensorLike
from vectors.tensorfile.names import VOCABULARY, match_names

from .adapter_out import Kept, Layout
from .align import PlannedTensor
from .errors import RecipeError, _
from .run import Equipment

_EMBEDDING = re.compile(r"position|token_type|relative_attention|wpe")


class Names:
    """The target's tensors under the names that the recipe's terms were trained with.

    A base is often stored without a prefix (``h.0.attn``) that the model built around it has
    (``transformer.h.0.attn``); PEFT finds modules by the latter, which the terms know.
    """

    def __init__(self, equipment: Equipment) -> None:
        self._target = equipment.target.tensors
        self._own: dict[str, str] = {}
        self._prefix = ""
        if any(rule.action == "rename" for rule in equipment.recipe.rules):
            return  # the recipe translates other models' names: the target's are the ones to use
        for at, term in enumerate(equipment.terms):
            goals, prefix = match_names(term.names, self._target)
            if at == 0:
                self._prefix = prefix
            if prefix == self._prefix:
                for own, goal in goals.items():
                    self._own.setdefault(goal, own)

    def of(self, name: str) -> str:
        """The adapter's name for the target's tensor ``name``."""
        if name in self._own:
            return self._own[name]
        sign, prefix = self._prefix[:1], self._prefix[1:]
        return name.removeprefix(prefix) if sign == "+" else prefix + name

    def all(self) -> list[str]:
        """Of every tensor of the target."""
        return [self.of(name) for name in self._target]

    @cached_property
    def containers(self) -> set[str]:
        """Modules that hold modules."""
        found: set[str] = set()
        for name in self.all():
            parts = name.split(".")
            found.update(".".join(parts[:end]) for end in range(1, len(parts) - 1))
        return found


def module_of(name: str) -> str:
    """The module whose tensor ``name`` is; empty for a bare parameter of the whole model."""
    return name.rpartition(".")[0]


def layout_of(name: str, shape: Sequence[int], transposed: set[str]) -> Layout | None:
    """How a layer of that name and shape is adapted, None where it is no layer PEFT adapts.

    ``transposed`` is what `conv1d_names` found. Vocabulary and position matrices are none: their
    changes are of few rows, not of few directions.
    """
    module, _dot, last = name.rpartition(".")
    rows, columns = (shape[0], math.prod(shape[1:])) if len(shape) > 1 else (1, 1)
    if last != "weight" or not module or len(shape) > 5 or min(rows, columns) < 2:
        return None
    if VOCABULARY.search(name) or _EMBEDDING.search(name):
        return None
    if len(shape) > 2 and shape[1] == 1:
        return None  # depthwise: one kernel a channel, which is no product
    if module.rpartition(".")[2] in transposed:
        return "transposed" if len(shape) == 2 else None
    return None if transposed else "linear"


def conv1d_names(tensors: Mapping[str, TensorLike]) -> set[str]:
    """Last names of modules that keep their weight transposed (GPT-2's Conv1D).

    A linear layer has a bias for each row of its weight, a Conv1D one for each column. Square
    layers are judged by others of the same name.
    """
    found = set()
    for name, tensor in tensors.items():
        module = module_of(name)
        bias = tensors.get(f"{module}.bias")
        if not name.endswith(".weight") or bias is None or len(tensor.shape) != 2:
            continue
        if bias.shape == tensor.shape[1:] and tensor.shape[0] != tensor.shape[1]:
            found.add(module.rpartition(".")[2])
    return found


def can_be_kept(name: str, names: Names, adapted: set[str]) -> bool:
    """Whether PEFT can replace the target's tensor ``name`` by a whole one.

    It replaces modules without children of their own, and the bias of an adapted layer.
    """
    own = names.of(name)
    module, _dot, last = own.rpartition(".")
    if module in adapted:
        return last == "bias"
    return bool(module) and module not in names.containers


def kept_modules(
    equipment: Equipment, names: Names, wanted: Sequence[str], adapted: set[str]
) -> list[Kept]:
    """``wanted`` tensors of the target as whole ones, with all others of their modules.

    PEFT replaces modules, not tensors. ``adapted`` are modules (in the file's names) that have a
    LoRA: of those only the bias can be replaced. Raises RecipeError naming a tensor that PEFT
    cannot replace.
    """
    plan = {planned.name: planned for planned in equipment.plan}
    of_module: dict[str, list[str]] = {}
    for name in plan:
        of_module.setdefault(module_of(names.of(name)), []).append(name)
    kept: dict[str, PlannedTensor] = {}
    for name in wanted:
        if not can_be_kept(name, names, adapted):
            raise RecipeError(
                _(
                    "A LoRA cannot carry the change in `%(tensor)s`: PEFT only adds to layers or "
                    "replaces whole ones. Take the difference (delta) or the whole model."
                ),
                tensor=name,
            )
        module = module_of(names.of(name))
        if module in adapted:
            kept[names.of(name)] = plan[name]
            continue
        for other in of_module[module]:
            kept[names.of(other)] = plan[other]
    return [Kept(name, planned) for name, planned in kept.items()]
