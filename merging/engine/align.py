"""Alignment: every tensor of target, foundation and terms ends in one stated case.

Nothing is skipped in silence; which name means which tensor is found by ``match_names``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vectors.tensorfile.checkpoint import Checkpoint, Tensor
from vectors.tensorfile.dtypes import DTYPES
from vectors.tensorfile.lora import Adapter
from vectors.tensorfile.names import VOCABULARY, match_names, shape_text

from .block import Difference, Piece, Product, Stored, Untouched
from .errors import MergeError, _

MERGED, UNTOUCHED, COPIED, KEPT = "merged", "untouched", "copied", "kept"


@dataclass(frozen=True)
class TermSource:
    """The bytes of one term: a ``full`` or ``delta`` checkpoint, or a LoRA adapter."""

    ref: str
    label: str
    form: str
    content: Checkpoint | Adapter


@dataclass(frozen=True)
class PlannedTensor:
    """One output tensor: where it comes from, and what each term adds (None: nothing known)."""

    target: Tensor
    case: str
    pieces: tuple[Piece | None, ...]
    out_dtype: str


@dataclass
class Report:
    """What happens to every tensor. ``cases`` maps a case to tensor names of the target."""

    cases: dict[str, list[str]] = field(
        default_factory=lambda: {MERGED: [], UNTOUCHED: [], COPIED: [], KEPT: []}
    )
    shared_rows: list[dict[str, Any]] = field(default_factory=list)
    dropped: dict[str, list[str]] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    absent: dict[str, list[str]] = field(default_factory=dict)
    collapsed_to: str | None = None

    def as_data(self) -> dict[str, Any]:
        """Plain data for storage and pages."""
        return {
            "cases": self.cases,
            "shared_rows": self.shared_rows,
            "dropped": self.dropped,
            "renamed": self.renamed,
            "absent": self.absent,
            "collapsed_to": self.collapsed_to,
        }


def align(
    target: Checkpoint,
    foundation: Checkpoint,
    terms: Sequence[TermSource],
    *,
    operates_on: str = "deltas",
    out_dtype: str | None = None,
) -> tuple[list[PlannedTensor], Report]:
    """Decide for each tensor of ``target`` what is merged into it.

    Raises MergeError naming the tensor when shapes do not fit. The plan keeps target order.
    """
    report = Report()
    bases, _prefix = match_names(foundation.tensors, target.tensors)
    base_of = {target_name: foundation.tensors[name] for name, target_name in bases.items()}
    per_term = [_pieces(term, target, base_of, report) for term in terms]
    planned = []
    for tensor in target.tensors.values():
        mergeable = DTYPES[tensor.dtype].mergeable and tensor.count > 0
        base = base_of.get(tensor.name)
        pieces = tuple(
            found.get(tensor.name) or _untouched(tensor, base, term, report)
            for found, term in zip(per_term, terms, strict=True)
        )
        case = _case(mergeable, base, pieces, operates_on, target is foundation)
        report.cases[case].append(tensor.name)
        final = out_dtype if out_dtype and mergeable else tensor.dtype
        planned.append(PlannedTensor(tensor, case, pieces if case == MERGED else (), final))
    return planned, report


def _case(
    mergeable: bool,
    base: Tensor | None,
    pieces: Sequence[Piece | None],
    operates_on: str,
    target_is_foundation: bool,
) -> str:
    if not mergeable:
        return COPIED
    if base is None:
        return KEPT
    if operates_on == "models":
        if any(piece is None for piece in pieces):
            return KEPT
        if target_is_foundation and all(isinstance(piece, Untouched) for piece in pieces):
            return UNTOUCHED
        return MERGED if pieces else UNTOUCHED
    touched = any(piece is not None and not isinstance(piece, Untouched) for piece in pieces)
    return MERGED if touched else UNTOUCHED


def _untouched(
    tensor: Tensor, base: Tensor | None, term: TermSource, report: Report
) -> Piece | None:
    if base is None:
        return None
    if term.form == "full" and DTYPES[tensor.dtype].mergeable and tensor.count > 0:
        report.absent.setdefault(term.label, []).append(tensor.name)
        return None
    return Untouched(base, min(base.count, tensor.count))


def _pieces(
    term: TermSource, target: Checkpoint, base_of: Mapping[str, Tensor], report: Report
) -> dict[str, Piece]:
    content = term.content
    names = (
        [*content.low_rank, *content.replaced]
        if isinstance(content, Adapter)
        else list(content.tensors)
    )
    mapping, prefix = match_names(names, target.tensors)
    if prefix:
        report.renamed[term.label] = prefix
    pieces: dict[str, Piece] = {}
    for name in names:
        goal = mapping.get(name)
        base = base_of.get(goal) if goal else None
        if goal is None or base is None:
            report.dropped.setdefault(term.label, []).append(name)
            continue
        tensor = target.tensors[goal]
        if not DTYPES[tensor.dtype].mergeable or tensor.count == 0:
            continue
        shape = _shape_of(content, name)
        _check_numbers(term, name, base)
        rows = _shared_rows(term, goal, shape, base, tensor)
        if rows is not None:
            report.shared_rows.append(
                {"term": term.label, "tensor": goal, "rows": rows, "of": tensor.shape[0]}
            )
        per_row = tensor.count // max(tensor.shape[0], 1) if tensor.shape else 1
        count = tensor.count if rows is None else rows * per_row
        pieces[goal] = _piece(term, name, base, count)
    return pieces


def _piece(term: TermSource, name: str, base: Tensor, count: int) -> Piece:
    content = term.content
    if isinstance(content, Adapter):
        if name in content.low_rank:
            return Product(content.low_rank[name], base, count)
        return Difference(content.replaced[name], base, count)
    if term.form == "delta":
        return Stored(content.tensors[name], base, count)
    return Difference(content.tensors[name], base, count)


def _shape_of(content: Checkpoint | Adapter, name: str) -> tuple[int, ...]:
    if isinstance(content, Adapter):
        if name in content.low_rank:
            return content.low_rank[name].shape
        return content.replaced[name].shape
    return content.tensors[name].shape


def _check_numbers(term: TermSource, name: str, base: Tensor) -> None:
    content = term.content
    if isinstance(content, Checkpoint):
        stored = content.tensors[name]
    else:  # the factors of a LoRA were checked when it was read
        stored = content.replaced.get(name, base)
    for tensor in (stored, base):
        if not DTYPES[tensor.dtype].mergeable:
            raise MergeError(
                _(
                    "`%(tensor)s` is %(dtype)s in %(source)s: it is quantised, so it cannot be "
                    "merged. Use the checkpoint in floating point."
                ),
                tensor=name,
                dtype=tensor.dtype,
                source=term.label if tensor is stored else "the foundation",
            )


def _shared_rows(
    term: TermSource, goal: str, shape: tuple[int, ...], base: Tensor, tensor: Tensor
) -> int | None:
    """How many leading rows all three share, None when the shapes are equal; else MergeError."""
    shapes = {shape, base.shape, tensor.shape}
    if len(shapes) == 1:
        return None
    if (
        VOCABULARY.search(goal)
        and all(len(each) == len(shape) >= 1 for each in shapes)
        and len({each[1:] for each in shapes}) == 1
    ):
        return min(each[0] for each in shapes)
    raise MergeError(
        _(
            "`%(tensor)s` is %(term)s in %(label)s, %(base)s in the foundation and %(target)s in "
            "the target: these do not fit together."
        ),
        tensor=goal,
        label=term.label,
        term=shape_text(shape),
        base=shape_text(base.shape),
        target=shape_text(tensor.shape),
    )
