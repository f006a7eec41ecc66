"""Pieces of vocabulary tensors whose rows are matched by token string, not by number."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vectors.tensorfile.checkpoint import TensorLike
from vectors.tensorfile.lora import Adapter

from .grafts import tokens_of
from .pieces import Difference, Piece, Product, Stored
from .vocabulary import RowMap, delta_rows, factor_rows, map_rows, model_rows, stored_rows

if TYPE_CHECKING:
    from .align import Alignment, TermSource


def piece_by_token(
    work: Alignment, term: TermSource, name: str, tensor: TensorLike, base: TensorLike
) -> Piece | None:
    """What the term's tensor ``name`` is for ``tensor``, row by token.

    A row moves where target, term and foundation know its token; every other row is left to the
    target (an average takes the term's row even where the foundation lacks it). None where all
    three number their tokens alike: then nothing needs matching. Raises MergeError where a
    tokenizer is missing.
    """
    target = tokens_of(work.target_tokens, "the target")
    foundation = tokens_of(work.foundation_tokens, "the foundation")
    shape = _rows_of(term, name)
    # A change of the foundation's matrix has the foundation's rows, whatever tokenizer lies beside.
    changes = term.form != "full" and shape == base.shape[0]
    own = foundation if changes or not term.tokens else tokens_of(term.tokens, term.label)
    rows = map_rows(target, own, tensor.shape[0], shape, label=term.label)
    base_rows = map_rows(target, foundation, tensor.shape[0], base.shape[0], label="the foundation")
    if rows.by_place and base_rows.by_place:
        return None
    moved = rows.rows >= 0
    if work.operates_on == "deltas":
        moved &= base_rows.rows >= 0
    work.report.mapped_rows.append(
        {
            "term": term.label,
            "tensor": tensor.name,
            "of": tensor.shape[0],
            **rows.as_data(),
            "merged": int(moved.sum()),
        }
    )
    return _piece(work, term, name, tensor, base, rows, base_rows)


def _rows_of(term: TermSource, name: str) -> int:
    content = term.content
    if isinstance(content, Adapter):
        if name in content.low_rank:
            return content.low_rank[name].shape[0]
        return content.replaced[name].shape[0]
    return content.tensors[name].shape[0]


def _piece(
    work: Alignment,
    term: TermSource,
    name: str,
    tensor: TensorLike,
    base: TensorLike,
    rows: RowMap,
    base_rows: RowMap,
) -> Piece:
    content = term.content
    moved = model_rows(tensor, base, base_rows)
    if isinstance(content, Adapter) and name in content.low_rank:
        factors = factor_rows(content.low_rank[name], rows, base_rows)
        return Product(factors, moved, tensor.count)
    stored = content.replaced[name] if isinstance(content, Adapter) else content.tensors[name]
    if term.form == "delta":
        return Stored(stored_rows(stored, rows, base_rows), moved, tensor.count)
    if work.operates_on == "models":
        return Difference(model_rows(tensor, stored, rows), moved, tensor.count)
    tuned, theta = delta_rows(tensor, stored, base, rows, base_rows)
    return Difference(tuned, theta, tensor.count)
