"""The difference: what a recipe adds to its target, kept as a vector of its own.

τ_B − τ_A is a vector as good as its parts. It is a virtual file like every other: any byte range
can be computed alone, and a tensor that no term changes is not in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vectors.tensorfile.checkpoint import Tensor
from vectors.tensorfile.dtypes import DTYPES
from vectors.tensorfile.numbers import compute_dtype, narrow

from .align import MERGED, PlannedTensor
from .block import BLOCK_ELEMENTS
from .errors import MergeError, RecipeError, _
from .kernels import has_broken
from .layout import VirtualFile, VirtualModel, lay_out_anew
from .methods import get_method
from .run import Equipment
from .workspace import Workspace

STORED = ("F32", "BF16", "F16", "F64")  # what a difference can be written in
STEM = "delta"


@dataclass(frozen=True, eq=False)
class Change:
    """What an equipment changes. ``tensors`` are those of the plan that it changes, by name.

    ``left_out`` are tensors that no addition to the target can give, with the reason.
    """

    equipment: Equipment
    tensors: dict[str, PlannedTensor]
    left_out: dict[str, str]

    def numbers(self, name: str, lo: int, hi: int, work: Workspace) -> np.ndarray:
        """Result minus target, elements ``[lo, hi)`` of a tensor: (n,), float32 or float64.

        Where a method adds to the target these are the numbers it adds. Where a tensor is another
        model's own, or a method gives the merged numbers, they are subtracted, with one rounding.
        """
        planned = self.tensors[name]
        own = self.own(name)
        if planned.source is own:
            return self.equipment.combination.change(planned, lo, hi, work)
        dtype = compute_dtype(planned.source.dtype, planned.out_dtype, own.dtype)
        found = work.read(planned.source, lo, hi, np.empty(hi - lo, dtype), "change raw")
        if planned.case == MERGED:
            found += self.equipment.combination.change(planned, lo, hi, work)
        target = work.array("change target", hi - lo, dtype)
        return np.subtract(found, work.read(own, lo, hi, target, "change raw"), out=found)

    def blocks(self, name: str, work: Workspace) -> Iterator[np.ndarray]:
        """All numbers of one tensor, in order, in runs of `BLOCK_ELEMENTS`."""
        count = self.own(name).count
        for lo in range(0, count, BLOCK_ELEMENTS):
            yield self.numbers(name, lo, min(lo + BLOCK_ELEMENTS, count), work)
        work.forget_tensor()

    @property
    def by_tensor(self) -> bool:
        """As the merge itself."""
        return self.equipment.combination.by_tensor

    @property
    def block_elements(self) -> int:
        """How many elements are best computed at a time."""
        return BLOCK_ELEMENTS

    def merge(self, tensor: PlannedTensor, lo: int, hi: int, work: Workspace) -> np.ndarray:
        """Bytes of the difference, as a `VirtualFile` asks for them. Raises MergeError."""
        raw = work.array("out", (hi - lo) * DTYPES[tensor.out_dtype].size, np.uint8)
        narrow(self.numbers(tensor.name, lo, hi, work), tensor.out_dtype, raw)
        if has_broken(raw, tensor.out_dtype):
            # Where the model itself is broken, its own sentence says which part is to blame.
            self.equipment.combination.merge(self.tensors[tensor.name], lo, hi, work)
            raise MergeError(
                _(
                    "The difference in `%(tensor)s` is too large for %(dtype)s: write it in F32 "
                    "or BF16."
                ),
                tensor=tensor.name,
                dtype=tensor.out_dtype,
            )
        return raw

    def own(self, name: str) -> Tensor:
        """The target's tensor of that name."""
        return self.equipment.target.tensors[name]


def change_of(equipment: Equipment) -> Change:
    """What ``equipment`` changes. Raises RecipeError where that is nothing, or has no target."""
    if equipment.recipe.slices:
        raise RecipeError(
            _("A model of slices is put on no target, so there is no difference: take it whole.")
        )
    tensors: dict[str, PlannedTensor] = {}
    left_out = dict.fromkeys(equipment.report.removed, _("the result does not have it"))
    for planned in equipment.plan:
        own = equipment.target.tensors.get(planned.name)
        if own is None:
            left_out[planned.name] = _("the target does not have it")
        elif planned.source is own and planned.case != MERGED:
            continue
        elif own.shape != planned.shape or not DTYPES[own.dtype].mergeable:
            left_out[planned.name] = _("it is replaced, not added to")
        else:
            tensors[planned.name] = planned
    if not tensors:
        raise RecipeError(_("This recipe changes no number of its target: nothing to keep."))
    return Change(equipment, tensors, left_out)


def lay_out_change(change: Change, dtype: str = "F32", *, one_file: bool = False) -> VirtualModel:
    """``delta.safetensors`` (or its shards and their index) in ``dtype``, computed as it leaves.

    Reads headers only. Raises RecipeError for a type that holds no difference.
    """
    if dtype not in STORED:
        raise RecipeError(
            _("A difference is written in %(known)s, not in %(dtype)s."),
            known=", ".join(STORED),
            dtype=dtype,
        )
    planned = [replace(tensor, case=MERGED, out_dtype=dtype) for tensor in change.tensors.values()]
    if not one_file:
        return lay_out_anew(planned, change, stem=STEM)
    path = f"{STEM}.safetensors"
    return VirtualModel({path: VirtualFile(path, planned, {}, change)}, None)


def is_exact(change: Change, dtype: str) -> bool:
    """Whether the difference in ``dtype``, put on the target at 1, gives the recipe's own bytes.

    So it does where the method adds to the target and ``dtype`` holds what it adds. (The sign of
    a zero may be lost: 0 − 0 is +0.)
    """
    equipment = change.equipment
    adds = get_method(equipment.recipe.method).operates_on == "deltas"
    if not adds or change.left_out or equipment.report.collapsed_to is not None:
        return False
    return all(
        tensor.source is change.own(name) and _holds(dtype, [tensor.source.dtype, tensor.out_dtype])
        for name, tensor in change.tensors.items()
    )


def _holds(dtype: str, computed: Sequence[str]) -> bool:
    return dtype == "F64" or (dtype == "F32" and compute_dtype(*computed) == np.float32)
